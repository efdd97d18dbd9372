package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// backend is a server that stands in for the pods of a Service.
type backend struct {
	// certificate gives the server's own TLS certificate, from the Secret that the pods mount.
	certificate func(namespace string) (*tls.Certificate, error)
	handler     func(namespace string) http.Handler
}

// egress is the HTTP CONNECT proxy through which the API server reaches Services. It dials
// nothing: a connection either ends at a backend in this process or is refused.
type egress struct {
	state    *state
	backends map[string]backend

	mutex   sync.Mutex
	servers map[string]*connListener
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
	// The other end is the API server; a request that does not come is a closed connection.
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	reader := bufio.NewReader(conn)
	request, err := http.ReadRequest(reader)
	if err != nil {
		conn.Close()
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	target, err := e.target(request)
	if err != nil {
		log.Printf("egress: refused %s: %v", request.Host, err)
		body := err.Error() + "\n"
		fmt.Fprintf(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
		conn.Close()
		return
	}
	if _, err := fmt.Fprint(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		conn.Close()
		return
	}
	target.hand(&bufferedConn{Conn: conn, reader: reader})
}

func (e *egress) target(request *http.Request) (*connListener, error) {
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
	if !e.state.hasReadyEndpoint(namespace, name) {
		return nil, fmt.Errorf("Service %s/%s has no ready endpoint", namespace, name)
	}
	if _, err := backend.certificate(namespace); err != nil {
		return nil, err
	}
	return e.server(namespace, name, backend), nil
}

func (e *egress) server(namespace, name string, backend backend) *connListener {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	key := namespace + "/" + name
	if server, ok := e.servers[key]; ok {
		return server
	}
	listener := &connListener{conns: make(chan net.Conn)}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return backend.certificate(namespace)
		},
	}
	server := &http.Server{Handler: backend.handler(namespace), ReadHeaderTimeout: 10 * time.Second, TLSConfig: config}
	go func() {
		// The listener never fails, so neither does Serve.
		_ = server.ServeTLS(listener, "", "")
	}()
	if e.servers == nil {
		e.servers = map[string]*connListener{}
	}
	e.servers[key] = listener
	return listener
}

// connListener is a listener fed with connections that were accepted elsewhere.
type connListener struct{ conns chan net.Conn }

func (l *connListener) hand(conn net.Conn)        { l.conns <- conn }
func (l *connListener) Accept() (net.Conn, error) { return <-l.conns, nil }
func (l *connListener) Close() error              { return nil }
func (l *connListener) Addr() net.Addr            { return &net.UnixAddr{Name: "egress", Net: "unix"} }

// bufferedConn gives back what was read ahead with the CONNECT request.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
