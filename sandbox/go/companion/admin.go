package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// adminPort is where a proxy serves its metrics.
const adminPort = "4191"

// adminServer serves every proxy's admin port: the pod that a connection is for selects the proxy.
type adminServer struct {
	identities *identities
	listener   *connListener
}

type podKey struct{}

// podConn is a connection to a pod.
type podConn struct {
	net.Conn
	pod *corev1.Pod
}

func newAdminServer(identities *identities) *adminServer {
	a := &adminServer{identities: identities, listener: &connListener{conns: make(chan net.Conn)}}
	server := &http.Server{
		Handler:           http.HandlerFunc(a.serve),
		ReadHeaderTimeout: 10 * time.Second,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, podKey{}, conn.(*podConn).pod)
		},
	}
	// A pod's connections have to end with it: by the next request, another pod may have its address.
	server.SetKeepAlivesEnabled(false)
	go func() {
		// The listener never fails, so neither does Serve.
		_ = server.Serve(a.listener)
	}()
	return a
}

// pod returns the running pod with a proxy at an address.
func (a *adminServer) pod(ip string) (*corev1.Pod, error) {
	found, err := a.identities.state.pods.GetIndexer().ByIndex(podIPIndex, ip)
	if err != nil {
		return nil, err
	}
	for _, obj := range found {
		pod := obj.(*corev1.Pod)
		if pod.Status.Phase == corev1.PodRunning && runningProxyOf(pod) != nil {
			return pod, nil
		}
	}
	return nil, fmt.Errorf("no running proxy has the address %s", ip)
}

func (a *adminServer) serve(w http.ResponseWriter, r *http.Request) {
	pod := r.Context().Value(podKey{}).(*corev1.Pod)
	switch r.URL.Path {
	case "/metrics":
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprint(w, a.identities.metrics(pod.UID, imageTag(runningProxyOf(pod).Image)))
	case "/ready", "/live":
		fmt.Fprint(w, "ready\n")
	default:
		http.NotFound(w, r)
	}
}

// serveProxies serves the trust bundle and certificate of every running proxy on a Unix socket, for
// tests.
func serveProxies(ctx context.Context, path string, identities *identities) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(identities.list())
		}),
	}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	go func() { _ = server.Serve(listener) }()
	return nil
}
