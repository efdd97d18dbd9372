package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"github.com/cert-manager/cert-manager/pkg/server/tls/authority"
)

// certManagerAuthority gives the stand-in for cert-manager's webhook the certificate that the real
// one creates for itself: signed by a CA in Secret cert-manager-webhook-ca, from which cainjector
// fills the webhook configurations.
type certManagerAuthority struct {
	state  *state
	config *rest.Config

	mutex     sync.Mutex
	namespace string
	source    *servertls.DynamicSource
}

// run creates and renews the certificate while the webhook has a ready pod.
func (a *certManagerAuthority) run(ctx context.Context) error {
	deployment, err := awaitReady(ctx, a.state, "webhook")
	if err != nil {
		return err
	}
	ctx, cancel := whileReady(ctx, a.state, "webhook")
	defer cancel()
	source := &servertls.DynamicSource{
		DNSNames:      []string{fmt.Sprintf("cert-manager-webhook.%s.svc", deployment.Namespace)},
		RetryInterval: 200 * time.Millisecond,
		Authority: &authority.DynamicAuthority{
			SecretNamespace: deployment.Namespace,
			SecretName:      "cert-manager-webhook-ca",
			SecretLabels:    map[string]string{"app.kubernetes.io/managed-by": "cert-manager-webhook"},
			RESTConfig:      a.config,
		},
	}
	a.set(deployment.Namespace, source)
	defer a.set("", nil)
	if err := source.Start(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}

func (a *certManagerAuthority) set(namespace string, source *servertls.DynamicSource) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.namespace, a.source = namespace, source
}

func (a *certManagerAuthority) certificate(namespace string) (*tls.Certificate, error) {
	// Retry, because the first certificate is available only after its CA has been created.
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		a.mutex.Lock()
		source := a.source
		known := a.namespace == namespace
		a.mutex.Unlock()
		if source == nil || !known {
			continue
		}
		if certificate, err := source.GetCertificate(nil); err == nil {
			return certificate, nil
		}
	}
	return nil, errors.New("cert-manager's webhook has no certificate yet")
}
