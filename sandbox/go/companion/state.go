package main

import (
	"context"
	"errors"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	clusterIPIndex = "clusterIP"
	podIPIndex     = "podIP"
)

// state is the companion's view of the cluster, kept up to date by watches.
type state struct {
	client      kubernetes.Interface
	services    cache.SharedIndexInformer
	pods        cache.SharedIndexInformer
	endpoints   cache.SharedIndexInformer
	slices      discoverylisters.EndpointSliceLister
	secrets     corelisters.SecretLister
	configMaps  corelisters.ConfigMapLister
	namespaces  corelisters.NamespaceLister
	deployments appslisters.DeploymentLister
	replicaSets appslisters.ReplicaSetLister
}

func newState(ctx context.Context, client kubernetes.Interface) (*state, error) {
	factory := informers.NewSharedInformerFactory(client, 0)
	services := factory.Core().V1().Services().Informer()
	if err := services.AddIndexers(cache.Indexers{clusterIPIndex: func(obj any) ([]string, error) {
		return obj.(*corev1.Service).Spec.ClusterIPs, nil
	}}); err != nil {
		return nil, err
	}
	pods := factory.Core().V1().Pods().Informer()
	if err := pods.AddIndexers(cache.Indexers{podIPIndex: func(obj any) ([]string, error) {
		pod := obj.(*corev1.Pod)
		if pod.Spec.HostNetwork || pod.Status.PodIP == "" {
			return nil, nil
		}
		return []string{pod.Status.PodIP}, nil
	}}); err != nil {
		return nil, err
	}
	s := &state{
		client:      client,
		services:    services,
		pods:        pods,
		endpoints:   factory.Discovery().V1().EndpointSlices().Informer(),
		slices:      factory.Discovery().V1().EndpointSlices().Lister(),
		secrets:     factory.Core().V1().Secrets().Lister(),
		configMaps:  factory.Core().V1().ConfigMaps().Lister(),
		namespaces:  factory.Core().V1().Namespaces().Lister(),
		deployments: factory.Apps().V1().Deployments().Lister(),
		replicaSets: factory.Apps().V1().ReplicaSets().Lister(),
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return nil, errors.New("no first list of " + kind.String())
		}
	}
	return s, nil
}

// namespace returns a Namespace, from the API server if the watch has not seen it yet.
func (s *state) namespace(name string) (*corev1.Namespace, error) {
	namespace, err := s.namespaces.Get(name)
	if apierrors.IsNotFound(err) {
		return s.client.CoreV1().Namespaces().Get(context.Background(), name, metav1.GetOptions{})
	}
	return namespace, err
}

// service returns the Service at an address that the API server uses: a DNS name or a cluster IP.
func (s *state) service(host string) (namespace, name string, err error) {
	if net.ParseIP(host) == nil {
		parts := strings.Split(host, ".")
		if len(parts) < 3 || parts[2] != "svc" {
			return "", "", errors.New("no Service name: " + host)
		}
		return parts[1], parts[0], nil
	}
	found, err := s.services.GetIndexer().ByIndex(clusterIPIndex, host)
	if err != nil {
		return "", "", err
	}
	if len(found) == 0 {
		return "", "", errors.New("no Service has the cluster IP " + host)
	}
	service := found[0].(*corev1.Service)
	return service.Namespace, service.Name, nil
}

// readyEndpoints returns the UIDs of the ready pods behind a Service, and the addresses of ready
// endpoints that are not pods.
func (s *state) readyEndpoints(namespace, name string) []string {
	selector := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name})
	slices, err := s.slices.EndpointSlices(namespace).List(selector)
	if err != nil {
		return nil
	}
	var ready []string
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready {
				continue
			}
			if endpoint.TargetRef != nil {
				ready = append(ready, string(endpoint.TargetRef.UID))
			} else {
				ready = append(ready, endpoint.Addresses...)
			}
		}
	}
	return ready
}
