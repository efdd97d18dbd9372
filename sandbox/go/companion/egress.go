package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// backend is a server that stands in for the pods of a Service.
type backend struct {
	// certificate returns the server's TLS certificate.
	certificate func(namespace string) (*tls.Certificate, error)
	handler     func(namespace string) http.Handler
}

// egress is the HTTP CONNECT proxy through which the API server reaches Services and proxies' admin
// ports. It dials nothing: a connection either ends in this process or is refused.
type egress struct {
	state    *state
	backends map[string]backend
	admin    *adminServer

	mutex   sync.Mutex
	servers map[serviceName]*connListener
	links   map[*link]struct{}
}

type serviceName struct{ namespace, name string }

// link is a connection to a Service. It belongs to one of the ready pods and ends with it, as a
// connection to that pod would.
type link struct {
	net.Conn
	egress   *egress
	reader   *bufio.Reader
	service  serviceName
	endpoint string
}

func newEgress(state *state, backends map[string]backend, admin *adminServer) (*egress, error) {
	e := &egress{
		state:    state,
		backends: backends,
		admin:    admin,
		servers:  map[serviceName]*connListener{},
		links:    map[*link]struct{}{},
	}
	changed := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
			e.cut(serviceName{slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]})
		}
	}
	_, err := state.endpoints.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, obj any) { changed(obj) },
		DeleteFunc: changed,
	})
	return e, err
}

func (e *egress) listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", path)
}

func (e *egress) serve(ctx context.Context, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() == nil {
				log.Printf("egress: %v", err)
			}
			return
		}
		go e.connect(conn)
	}
}

func (e *egress) connect(conn net.Conn) {
	// The client is the API server. Close the connection if no request arrives in time.
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	reader := bufio.NewReader(conn)
	request, err := http.ReadRequest(reader)
	if err != nil {
		conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	made := &link{Conn: conn, egress: e, reader: reader}
	pod, err := e.podTarget(request)
	if pod != nil {
		if _, err := fmt.Fprint(conn, established); err != nil {
			made.Close()
			return
		}
		e.admin.listener.hand(&podConn{Conn: made, pod: pod})
		return
	}
	var server *connListener
	if err == nil {
		server, err = e.target(request, made)
	}
	if err != nil {
		log.Printf("egress: refused %s: %v", request.Host, err)
		body := err.Error() + "\n"
		fmt.Fprintf(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
		made.Close()
		return
	}
	if _, err := fmt.Fprint(conn, established); err != nil {
		made.Close()
		return
	}
	server.hand(made)
}

const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// podTarget returns the pod whose proxy's admin port a CONNECT request is for, or nil if it is for
// something else.
func (e *egress) podTarget(request *http.Request) (*corev1.Pod, error) {
	host, port, err := net.SplitHostPort(request.Host)
	if request.Method != http.MethodConnect || err != nil || port != adminPort {
		return nil, nil
	}
	return e.admin.pod(host)
}

// target returns the server that a CONNECT request is for, and binds the connection to a ready pod.
func (e *egress) target(request *http.Request, made *link) (*connListener, error) {
	if request.Method != http.MethodConnect {
		return nil, errors.New("only CONNECT is served")
	}
	host, _, err := net.SplitHostPort(request.Host)
	if err != nil {
		return nil, err
	}
	namespace, name, err := e.state.service(host)
	if err != nil {
		return nil, err
	}
	backend, ok := e.backends[name]
	if !ok {
		return nil, fmt.Errorf("nothing stands in for Service %s/%s", namespace, name)
	}
	noPod := fmt.Errorf("Service %s/%s has no ready endpoint", namespace, name)
	if len(e.state.readyEndpoints(namespace, name)) == 0 {
		return nil, noPod
	}
	if _, err := backend.certificate(namespace); err != nil {
		return nil, err
	}
	// Check again under the lock, so that cut does not miss a pod that ends now.
	e.mutex.Lock()
	defer e.mutex.Unlock()
	ready := e.state.readyEndpoints(namespace, name)
	if len(ready) == 0 {
		return nil, noPod
	}
	made.service = serviceName{namespace, name}
	made.endpoint = ready[rand.IntN(len(ready))]
	e.links[made] = struct{}{}
	return e.server(made.service, backend), nil
}

// cut closes the connections to pods of a Service that are gone or no longer ready.
func (e *egress) cut(service serviceName) {
	e.mutex.Lock()
	var ended []*link
	ready := e.state.readyEndpoints(service.namespace, service.name)
	for made := range e.links {
		if made.service == service && !slices.Contains(ready, made.endpoint) {
			ended = append(ended, made)
		}
	}
	e.mutex.Unlock()
	for _, made := range ended {
		made.Close()
	}
}

// server returns the HTTP server of a Service, and starts it the first time. The caller holds the
// lock.
func (e *egress) server(service serviceName, backend backend) *connListener {
	if server, ok := e.servers[service]; ok {
		return server
	}
	listener := &connListener{conns: make(chan net.Conn)}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return backend.certificate(service.namespace)
		},
	}
	server := &http.Server{
		Handler:           backend.handler(service.namespace),
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         config,
	}
	go func() {
		// The listener never fails, so neither does Serve.
		_ = server.ServeTLS(listener, "", "")
	}()
	e.servers[service] = listener
	return listener
}

// Read first returns what was buffered while reading the CONNECT request.
func (l *link) Read(p []byte) (int, error) { return l.reader.Read(p) }

func (l *link) Close() error {
	l.egress.mutex.Lock()
	delete(l.egress.links, l)
	l.egress.mutex.Unlock()
	return l.Conn.Close()
}

// connListener is a listener fed with connections that were accepted elsewhere.
type connListener struct{ conns chan net.Conn }

func (l *connListener) hand(conn net.Conn)        { l.conns <- conn }
func (l *connListener) Accept() (net.Conn, error) { return <-l.conns, nil }
func (l *connListener) Close() error              { return nil }
func (l *connListener) Addr() net.Addr            { return &net.UnixAddr{Name: "egress", Net: "unix"} }
