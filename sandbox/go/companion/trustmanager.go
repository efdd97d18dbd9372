package main

import (
	"context"
	"net/http"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	trustapi "github.com/cert-manager/trust-manager/pkg/apis/trust/v1alpha1"
	"github.com/cert-manager/trust-manager/pkg/bundle"
	"github.com/cert-manager/trust-manager/pkg/bundle/controller"
	trustwebhook "github.com/cert-manager/trust-manager/pkg/webhook"
)

// trustManager runs trust-manager's own Bundle controller, and serves its webhook with
// trust-manager's own validation.
type trustManager struct {
	state  *state
	config *rest.Config

	mutex     sync.Mutex
	validator http.Handler
}

// run runs both, as cmd/trust-manager does, while trust-manager has a ready pod and its CRD is
// served. There is no package of default CAs, because it is in an image.
func (t *trustManager) run(ctx context.Context) error {
	deployment, err := awaitReady(ctx, t.state, "trust-manager")
	if err != nil {
		return err
	}
	crds, err := awaitCRDs(ctx, t.config, trustapi.SchemeGroupVersion.String(), "bundles")
	if err != nil {
		return err
	}
	ctx, stop := whileReady(ctx, t.state, "trust-manager")
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go crds.watch(ctx, cancel)

	scheme := runtime.NewScheme()
	utilruntime.Must(clientscheme.AddToScheme(scheme))
	utilruntime.Must(trustapi.AddToScheme(scheme))
	options := controller.Options{
		Namespace:            argumentOf(deployment, "--trust-namespace", deployment.Namespace),
		SecretTargetsEnabled: argumentOf(deployment, "--secret-targets-enabled", "") == "true",
		FilterExpiredCerts:   argumentOf(deployment, "--filter-expired-certificates", "") == "true",
		FilterNonCACerts:     argumentOf(deployment, "--filter-non-ca-certs", "") == "true",
	}
	server := &unheard{ctrlwebhook.NewServer(ctrlwebhook.Options{})}
	again := true
	manager, err := ctrl.NewManager(t.config, ctrl.Options{
		Scheme:        scheme,
		Metrics:       metricsserver.Options{BindAddress: "0"},
		WebhookServer: server,
		Cache:         bundle.CacheOpts(options),
		// The first start registers the controllers' names in this process for good.
		Controller: ctrlconfig.Controller{SkipNameValidation: &again},
	})
	if err != nil {
		return err
	}
	if err := bundle.SetupWithManager(ctx, manager, options); err != nil {
		return err
	}
	if err := trustwebhook.SetupWebhookWithManager(manager); err != nil {
		return err
	}
	t.set(server.WebhookMux())
	defer t.set(nil)
	if err := manager.Start(ctx); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (t *trustManager) set(validator http.Handler) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.validator = validator
}

func (t *trustManager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.mutex.Lock()
	validator := t.validator
	t.mutex.Unlock()
	if validator == nil {
		http.Error(w, "trust-manager does not run", http.StatusServiceUnavailable)
		return
	}
	validator.ServeHTTP(w, r)
}

// unheard is a webhook server that does not listen: the API server reaches its handlers through the
// egress proxy.
type unheard struct{ ctrlwebhook.Server }

func (*unheard) Start(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
