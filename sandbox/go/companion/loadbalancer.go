package main

import (
	"context"
	"log"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// loadBalancerStatus has an address reserved for documentation (RFC 5737); nothing is sent to it.
const loadBalancerStatus = `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`

// serveLoadBalancers gives Services of type LoadBalancer an address, as a cloud would.
func serveLoadBalancers(ctx context.Context, state *state, client kubernetes.Interface) error {
	assign := func(obj any) {
		service, ok := obj.(*corev1.Service)
		if !ok || service.Spec.Type != corev1.ServiceTypeLoadBalancer || len(service.Status.LoadBalancer.Ingress) > 0 {
			return
		}
		_, err := client.CoreV1().Services(service.Namespace).Patch(
			ctx, service.Name, types.MergePatchType, []byte(loadBalancerStatus), metav1.PatchOptions{}, "status")
		if err != nil && ctx.Err() == nil {
			log.Printf("load balancer of Service %s/%s: %v", service.Namespace, service.Name, err)
		}
	}
	_, err := state.services.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    assign,
		UpdateFunc: func(_, obj any) { assign(obj) },
	})
	return err
}
