package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	servertls "github.com/cert-manager/cert-manager/pkg/server/tls"
	"github.com/cert-manager/cert-manager/pkg/server/tls/authority"
)

// certManagerAuthority gives the stand-in for cert-manager's webhook the certificate that the real
// one makes for itself: signed by a CA in Secret cert-manager-webhook-ca, from which cainjector
// fills the webhook configurations.
type certManagerAuthority struct {
	config *rest.Config

	mutex   sync.Mutex
	sources map[string]*servertls.DynamicSource
}

func (a *certManagerAuthority) certificate(namespace string) (*tls.Certificate, error) {
	a.mutex.Lock()
	source, ok := a.sources[namespace]
	if !ok {
		source = &servertls.DynamicSource{
			DNSNames: []string{fmt.Sprintf("cert-manager-webhook.%s.svc", namespace)},
			Authority: &authority.DynamicAuthority{
				SecretNamespace: namespace,
				SecretName:      "cert-manager-webhook-ca",
				RESTConfig:      a.config,
			},
		}
		go func() {
			if err := source.Start(context.Background()); err != nil {
				log.Printf("cert-manager-webhook: %v", err)
			}
		}()
		if a.sources == nil {
			a.sources = map[string]*servertls.DynamicSource{}
		}
		a.sources[namespace] = source
	}
	a.mutex.Unlock()

	// The first one takes the moment in which its CA is made.
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if certificate, err := source.GetCertificate(nil); err == nil && certificate != nil {
			return certificate, nil
		}
	}
	return nil, errors.New("the webhook has no certificate yet")
}
