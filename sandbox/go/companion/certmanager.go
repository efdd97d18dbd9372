package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	apireg "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	corev1 "k8s.io/api/core/v1"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/cainjector"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	crca "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	crselfsigned "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	"github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	"github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
)

// certManagerControllers are the CA and self-signed issuers' controllers and all others that a
// Certificate needs. Those for ACME, Vault and Venafi need servers that a sandbox does not have.
var certManagerControllers = []string{
	issuers.ControllerName,
	clusterissuers.ControllerName,
	trigger.ControllerName,
	keymanager.ControllerName,
	requestmanager.ControllerName,
	issuing.ControllerName,
	readiness.ControllerName,
	revisionmanager.ControllerName,
	approver.ControllerName,
	crca.CRControllerName,
	crselfsigned.CRControllerName,
}

var certManagerResources = []string{"certificates", "certificaterequests", "issuers", "clusterissuers"}

// runCertManager runs cert-manager's controllers while the cluster has its CRDs and a ready
// controller Deployment, as its pods would.
func runCertManager(ctx context.Context, state *state, kubeconfig string, config *rest.Config) error {
	deployment, err := awaitReady(ctx, state, "controller")
	if err != nil {
		return err
	}
	crds, err := awaitCRDs(ctx, config, cmapi.SchemeGroupVersion.String(), certManagerResources...)
	if err != nil {
		return err
	}
	ctx, stop := whileReady(ctx, state, "controller")
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go crds.watch(ctx, cancel)

	namespace := clusterResourceNamespace(deployment)
	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		Kubeconfig: kubeconfig,
		IssuerOptions: controller.IssuerOptions{
			ClusterResourceNamespace: namespace,
		},
		CertificateOptions: controller.CertificateOptions{
			CertificateRequestMinimumBackoffDuration: time.Minute,
			CertificateRequestMaximumBackoffDuration: time.Hour,
		},
	})
	if err != nil {
		return err
	}
	shared, err := factory.Build()
	if err != nil {
		return err
	}
	known := controller.Known()
	for _, name := range certManagerControllers {
		construct, ok := known[name]
		if !ok {
			return fmt.Errorf("cert-manager has no controller %s", name)
		}
		run, err := construct(factory)
		if err != nil {
			return fmt.Errorf("controller %s: %w", name, err)
		}
		go func() {
			if err := run.Run(5, ctx); err != nil {
				cancel(fmt.Errorf("controller %s: %w", name, err))
			}
		}()
	}
	shared.SharedInformerFactory.Start(ctx.Done())
	shared.KubeSharedInformerFactory.Start(ctx.Done())
	log.Printf("cert-manager's controllers run; cluster resource namespace %s", namespace)
	<-ctx.Done()
	return context.Cause(ctx)
}

// runCAInjector runs cert-manager's cainjector, which fills the CA bundles of webhook
// configurations, APIServices and CRDs.
func runCAInjector(ctx context.Context, state *state, config *rest.Config) error {
	if _, err := awaitReady(ctx, state, "cainjector"); err != nil {
		return err
	}
	crds, err := awaitCRDs(ctx, config, cmapi.SchemeGroupVersion.String(), certManagerResources...)
	if err != nil {
		return err
	}
	ctx, stop := whileReady(ctx, state, "cainjector")
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go crds.watch(ctx, cancel)

	scheme := runtime.NewScheme()
	utilruntime.Must(clientscheme.AddToScheme(scheme))
	utilruntime.Must(cmapi.AddToScheme(scheme))
	utilruntime.Must(apiext.AddToScheme(scheme))
	utilruntime.Must(apireg.AddToScheme(scheme))
	again := true
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:  scheme,
		Metrics: metricsserver.Options{BindAddress: "0"},
		Client:  client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		// The first start registers the controllers' names in this process for good.
		Controller: ctrlconfig.Controller{SkipNameValidation: &again},
	})
	if err != nil {
		return err
	}
	err = cainjector.RegisterAllInjectors(ctx, manager, cainjector.SetupOptions{
		EnableCertificatesDataSource: true,
		EnabledReconcilersFor: map[string]bool{
			cainjector.MutatingWebhookConfigurationName:   true,
			cainjector.ValidatingWebhookConfigurationName: true,
			cainjector.APIServiceName:                     true,
			cainjector.CustomResourceDefinitionName:       true,
		},
	})
	if err != nil {
		return err
	}
	if err := manager.Start(ctx); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// servedCRDs checks whether the API server serves certain resources of one group version.
type servedCRDs struct {
	api          discovery.DiscoveryInterface
	groupVersion string
	resources    []string
}

func awaitCRDs(ctx context.Context, config *rest.Config, groupVersion string, resources ...string) (*servedCRDs, error) {
	api, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	crds := &servedCRDs{api: api, groupVersion: groupVersion, resources: resources}
	for {
		if served, err := crds.served(); err != nil || served {
			return crds, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func (c *servedCRDs) served() (bool, error) {
	resources, err := c.api.ServerResourcesForGroupVersion(c.groupVersion)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	names := map[string]bool{}
	for _, resource := range resources.APIResources {
		names[resource.Name] = true
	}
	for _, name := range c.resources {
		if !names[name] {
			return false, nil
		}
	}
	return true, nil
}

// watch cancels once the CRDs are gone. An unreachable API server does not count as that.
func (c *servedCRDs) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Second):
		}
		if served, err := c.served(); err == nil && !served {
			cancel(errors.New("its CRDs are gone"))
			return
		}
	}
}

// chartLabels are the labels that the charts of cert-manager and trust-manager give to the
// Deployments of their components.
var chartLabels = map[string]labels.Set{
	"controller":    {"app.kubernetes.io/name": "cert-manager", "app.kubernetes.io/component": "controller"},
	"webhook":       {"app.kubernetes.io/name": "webhook", "app.kubernetes.io/component": "webhook"},
	"cainjector":    {"app.kubernetes.io/name": "cainjector", "app.kubernetes.io/component": "cainjector"},
	"trust-manager": {"app.kubernetes.io/name": "trust-manager"},
}

// readyDeployment returns the Deployment of a component if it has a ready pod.
func readyDeployment(state *state, component string) *appsv1.Deployment {
	selector := labels.SelectorFromSet(chartLabels[component])
	found, err := state.deployments.List(selector)
	if err != nil {
		return nil
	}
	for _, deployment := range found {
		if deployment.Status.ReadyReplicas > 0 {
			return deployment
		}
	}
	return nil
}

func awaitReady(ctx context.Context, state *state, component string) (*appsv1.Deployment, error) {
	for {
		if deployment := readyDeployment(state, component); deployment != nil {
			return deployment, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// whileReady returns a context that is cancelled when a component no longer has a ready pod.
func whileReady(ctx context.Context, state *state, component string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
			if readyDeployment(state, component) == nil {
				cancel(errors.New("it has no ready pod any more"))
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

func clusterResourceNamespace(deployment *appsv1.Deployment) string {
	return argumentOf(deployment, "--cluster-resource-namespace", deployment.Namespace)
}

// argumentOf returns the value of a flag of a Deployment's containers, or a default.
func argumentOf(deployment *appsv1.Deployment, name, otherwise string) string {
	for _, container := range deployment.Spec.Template.Spec.Containers {
		for _, argument := range container.Args {
			if value, ok := strings.CutPrefix(argument, name+"="); ok && !strings.HasPrefix(value, "$") {
				return value
			}
		}
	}
	return otherwise
}
