package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

// served starts an egress proxy on a socket, in a cluster with one of Linkerd's Services, one ready
// pod behind it, and its Secret.
func served(t *testing.T) (client kubernetes.Interface, socket string, roots *x509.CertPool) {
	t.Helper()
	certificate, key := keyPair(t, "linkerd-sp-validator.linkerd.svc")
	meta := metav1.ObjectMeta{Namespace: "linkerd", Name: "linkerd-sp-validator"}
	ready := true
	client = fake.NewClientset(
		&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.7"}}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "web"}},
		&discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "linkerd", Name: "slice",
				Labels: map[string]string{discoveryv1.LabelServiceName: meta.Name},
			},
			Endpoints: []discoveryv1.Endpoint{{
				Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef:  &corev1.ObjectReference{UID: "pod-1"},
			}},
		},
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: "linkerd-sp-validator-k8s-tls"},
			Data:       map[string][]byte{"tls.crt": certificate, "tls.key": key},
		},
	)
	state, err := newState(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	identities, err := newIdentities(state)
	if err != nil {
		t.Fatal(err)
	}
	egress, err := newEgress(state, backends(state, &certManagerAuthority{state: state}, &trustManager{state: state}), newAdminServer(identities))
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "s")
	listener, err := egress.listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go egress.serve(t.Context(), listener)
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	return client, socket, roots
}

func keyPair(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

// dial connects through the proxy as the API server does.
func dial(socket, target string) (net.Conn, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(response.Body)
		return nil, fmt.Errorf("%d %s", response.StatusCode, strings.TrimSpace(string(body)))
	}
	return conn, nil
}

func post(conn net.Conn, roots *x509.CertPool) (string, error) {
	client := &http.Client{Transport: &http.Transport{
		DialContext:     func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		TLSClientConfig: &tls.Config{RootCAs: roots},
	}}
	review := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u-1"}}`
	response, err := client.Post("https://linkerd-sp-validator.linkerd.svc/", "application/json", strings.NewReader(review))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen in 5 s")
		}
	}
}

func sha256Hex(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func TestAServiceIsReachedByNameAndByIP(t *testing.T) {
	_, socket, roots := served(t)
	for _, target := range []string{"linkerd-sp-validator.linkerd.svc:443", "10.96.0.7:443"} {
		conn, err := dial(socket, target)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		answer, err := post(conn, roots)
		if err != nil || !strings.Contains(answer, `"allowed":true`) || !strings.Contains(answer, `"uid":"u-1"`) {
			t.Errorf("%s: %s %v", target, answer, err)
		}
	}
}

func TestTheCertificateIsThatOfTheSecret(t *testing.T) {
	client, socket, roots := served(t)
	certificate, key := keyPair(t, "linkerd-sp-validator.linkerd.svc")
	secret, _ := client.CoreV1().Secrets("linkerd").Get(t.Context(), "linkerd-sp-validator-k8s-tls", metav1.GetOptions{})
	secret.Data = map[string][]byte{"tls.crt": certificate, "tls.key": key}
	if _, err := client.CoreV1().Secrets("linkerd").Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		conn, err := dial(socket, "linkerd-sp-validator.linkerd.svc:443")
		if err != nil {
			t.Fatal(err)
		}
		_, err = post(conn, roots)
		return err != nil && strings.Contains(err.Error(), "unknown authority")
	})
}

func TestNothingElseIsReached(t *testing.T) {
	_, socket, _ := served(t)
	for target, why := range map[string]string{
		"web.apps.svc:80":                "nothing stands in",
		"linkerd-sp-validator:443":       "no Service name",
		"10.96.0.8:443":                  "no Service has the cluster IP",
		"127.0.0.1:22":                   "no Service has the cluster IP",
		"example.com:443":                "no Service name",
		"10.244.0.9:4191":                "no running proxy has the address",
		"tap.linkerd-viz.svc:443":        "no ready endpoint",
		"linkerd-sp-validator.x.svc:443": "no ready endpoint",
	} {
		if _, err := dial(socket, target); err == nil || !strings.HasPrefix(err.Error(), "502 ") || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestAConnectionEndsWithItsPod(t *testing.T) {
	client, socket, _ := served(t)
	conn, err := dial(socket, "linkerd-sp-validator.linkerd.svc:443")
	if err != nil {
		t.Fatal(err)
	}
	slices := client.DiscoveryV1().EndpointSlices("linkerd")
	slice, _ := slices.Get(t.Context(), "slice", metav1.GetOptions{})
	notReady := false
	slice.Endpoints[0].Conditions.Ready = &notReady
	if _, err := slices.Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection outlived its pod: %v", err)
	}
	if _, err := dial(socket, "linkerd-sp-validator.linkerd.svc:443"); err == nil {
		t.Error("a Service without a ready pod was reached")
	}
}

func TestAMissingSecretRefusesConnections(t *testing.T) {
	client, socket, _ := served(t)
	err := client.CoreV1().Secrets("linkerd").Delete(t.Context(), "linkerd-sp-validator-k8s-tls", metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		_, err := dial(socket, "linkerd-sp-validator.linkerd.svc:443")
		return err != nil && strings.Contains(err.Error(), "not found")
	})
}
