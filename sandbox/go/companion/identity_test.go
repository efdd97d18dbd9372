package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

// testAuthority is a CA with its key.
type testAuthority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string, signer *testAuthority) *testAuthority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	parent, parentKey := template, key
	if signer != nil {
		parent, parentKey = signer.certificate, signer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testAuthority{certificate, key}
}

func (a *testAuthority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

func (a *testAuthority) secret(t *testing.T) map[string][]byte {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"tls.crt": []byte(a.pem()), "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}
}

func meshedPod(namespace, name, ip string, anchors corev1.EnvVar) *corev1.Pod {
	anchors.Name = anchorsVariable
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(name),
			Labels: map[string]string{controlPlaneLabel: "linkerd"},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: proxyContainer, Image: "proxy:edge-26.8.3", Env: []corev1.EnvVar{anchors},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip},
	}
}

func identified(t *testing.T, anchor, signer *testAuthority) (kubernetes.Interface, *identities) {
	t.Helper()
	fromMap := corev1.EnvVar{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "linkerd-identity-trust-roots"}, Key: "ca-bundle.crt",
	}}}
	identity := meshedPod("linkerd", "identity", "10.244.0.1", fromMap)
	identity.Labels[componentLabel] = "identity"
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "linkerd", Name: name} }
	client := fake.NewClientset(
		identity,
		meshedPod("apps", "web", "10.244.0.2", corev1.EnvVar{Value: anchor.pem()}),
		&corev1.ConfigMap{ObjectMeta: meta("linkerd-config"), Data: map[string]string{"values": "identityTrustDomain: cluster.local"}},
		&corev1.ConfigMap{ObjectMeta: meta("linkerd-identity-trust-roots"), Data: map[string]string{"ca-bundle.crt": anchor.pem()}},
		&corev1.Secret{ObjectMeta: meta("linkerd-identity-issuer"), Data: signer.secret(t)},
	)
	state, err := newState(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	identities, err := newIdentities(state)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = identities.run(t.Context()) }()
	return client, identities
}

// carriedBy returns the current chain of a pod's proxy, the leaf first.
func carriedBy(t *testing.T, identities *identities, name string) []*x509.Certificate {
	t.Helper()
	for _, proxy := range identities.list() {
		if proxy.Name != name {
			continue
		}
		var chain []*x509.Certificate
		for block, rest := pem.Decode([]byte(proxy.Chain)); block != nil; block, rest = pem.Decode(rest) {
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, certificate)
		}
		return chain
	}
	return nil
}

func TestARunningProxyHasALeafOfTheIssuer(t *testing.T) {
	anchor := newAuthority(t, "root", nil)
	signer := newAuthority(t, "issuer", anchor)
	_, identities := identified(t, anchor, signer)
	for _, name := range []string{"web", "identity"} {
		eventually(t, func() bool { return len(carriedBy(t, identities, name)) == 2 })
	}
	chain := carriedBy(t, identities, "web")
	if err := chain[0].CheckSignatureFrom(signer.certificate); err != nil {
		t.Error(err)
	}
	if chain[0].DNSNames[0] != "default.apps.serviceaccount.identity.linkerd.cluster.local" {
		t.Error(chain[0].DNSNames)
	}
	if chain[0].NotAfter != signer.certificate.NotAfter {
		t.Error("a leaf outlives its issuer")
	}
}

func TestAnIssuerIsLoadedOrSkippedAsLinkerdDoes(t *testing.T) {
	anchor := newAuthority(t, "root", nil)
	client, identities := identified(t, anchor, newAuthority(t, "issuer", anchor))
	eventually(t, func() bool { return len(carriedBy(t, identities, "web")) == 2 })
	replace := func(signer *testAuthority, reason string) {
		secret, _ := client.CoreV1().Secrets("linkerd").Get(t.Context(), "linkerd-identity-issuer", metav1.GetOptions{})
		secret.Data = signer.secret(t)
		if _, err := client.CoreV1().Secrets("linkerd").Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool {
			events, _ := client.CoreV1().Events("linkerd").List(t.Context(), metav1.ListOptions{})
			for _, event := range events.Items {
				if event.Reason == reason && event.InvolvedObject.Name == "linkerd-identity" {
					return true
				}
			}
			return false
		})
	}
	foreign := newAuthority(t, "foreign", newAuthority(t, "other root", nil))
	replace(foreign, "IssuerUpdateSkipped")
	add := func(name, ip string) []*x509.Certificate {
		pod := meshedPod("apps", name, ip, corev1.EnvVar{Value: anchor.pem()})
		if _, err := client.CoreV1().Pods("apps").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return len(carriedBy(t, identities, name)) == 2 })
		return carriedBy(t, identities, name)
	}
	if name := add("one", "10.244.0.3")[0].Issuer.CommonName; name != "issuer" {
		t.Errorf("signed by %s", name)
	}
	replace(newAuthority(t, "second issuer", anchor), "IssuerUpdated")
	if name := add("two", "10.244.0.4")[0].Issuer.CommonName; name != "second issuer" {
		t.Errorf("signed by %s", name)
	}
	if name := carriedBy(t, identities, "one")[0].Issuer.CommonName; name != "issuer" {
		t.Errorf("a running proxy's leaf was replaced by one of %s", name)
	}
}

func TestAProxyShowsItsCertificatesTimes(t *testing.T) {
	anchor := newAuthority(t, "root", nil)
	client, identities := identified(t, anchor, newAuthority(t, "issuer", anchor))
	eventually(t, func() bool { return len(carriedBy(t, identities, "web")) == 2 })
	state, err := newState(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	egress, err := newEgress(state, nil, newAdminServer(identities))
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := egress.listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go egress.serve(t.Context(), listener)
	conn, err := dial(socket, "10.244.0.2:4191")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "GET /metrics HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	want := fmt.Sprintf("control_identity_cert_expiration_timestamp_seconds %.3f",
		float64(carriedBy(t, identities, "web")[0].NotAfter.UnixMilli())/1000)
	if !strings.Contains(string(body), want) {
		t.Errorf("%s\nwant %s", body, want)
	}
}
