package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"
)

const (
	controlPlaneLabel = "linkerd.io/control-plane-ns"
	componentLabel    = "linkerd.io/control-plane-component"
	anchorsVariable   = "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS"

	// mountDelay is how long a changed Secret takes to reach the pods that mount it. A kubelet
	// takes up to about a minute.
	mountDelay = time.Second

	// settle is how long to wait after a pod's change before syncing, because changes come in
	// bursts.
	settle = 20 * time.Millisecond
)

// identities stands in for the identity service's pods and the proxies: it loads the issuer and
// signs a leaf for each proxy by the rules of pkg/identity and pkg/tls of linkerd2, and keeps the
// leaf that a real proxy would have in memory.
type identities struct {
	state *state
	wake  chan struct{}

	mutex    sync.Mutex
	services map[types.UID]*identityPod
	proxies  map[types.UID]*carried
}

// identityPod is a running pod of the identity service: the settings it read at its start, and the
// issuer it signs with.
type identityPod struct {
	roots    *x509.CertPool
	scheme   string
	issuer   *issuer
	seen     []byte
	changed  time.Time
	lifetime time.Duration
	skew     time.Duration
	domain   string
}

type issuer struct {
	certificate *x509.Certificate
	chain       [][]byte
	key         any
}

// carried is what a running proxy has in memory: its trust bundle, and its leaf with the issuer's
// chain, both PEM.
type carried struct {
	bundle    string
	chain     string
	notAfter  time.Time
	refreshed time.Time
	refreshes int
	failures  int
}

// identityValues are the chart values with which the identity service is started.
type identityValues struct {
	IdentityTrustDomain string `json:"identityTrustDomain"`
	Identity            struct {
		Issuer struct {
			ClockSkewAllowance string `json:"clockSkewAllowance"`
			IssuanceLifetime   string `json:"issuanceLifetime"`
			Scheme             string `json:"scheme"`
		} `json:"issuer"`
	} `json:"identity"`
}

func newIdentities(state *state) (*identities, error) {
	i := &identities{
		state:    state,
		wake:     make(chan struct{}, 1),
		services: map[types.UID]*identityPod{},
		proxies:  map[types.UID]*carried{},
	}
	changed := func(any) {
		select {
		case i.wake <- struct{}{}:
		default:
		}
	}
	_, err := state.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: changed,
	})
	return i, err
}

// run gives every running proxy a leaf, at its start and again before the leaf expires.
func (i *identities) run(ctx context.Context) error {
	for {
		i.sync(ctx, time.Now())
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-i.wake:
			time.Sleep(settle)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (i *identities) sync(ctx context.Context, now time.Time) {
	running := i.running()
	i.mutex.Lock()
	defer i.mutex.Unlock()
	there := map[types.UID]bool{}
	for _, pod := range running {
		there[pod.UID] = true
		if pod.Labels[componentLabel] == "identity" {
			i.load(ctx, pod, now)
		}
	}
	for uid := range i.services {
		if !there[uid] {
			delete(i.services, uid)
		}
	}
	for uid := range i.proxies {
		if !there[uid] {
			delete(i.proxies, uid)
		}
	}
	for _, pod := range running {
		i.supply(pod, running, now)
	}
}

// running returns the running pods that have a proxy.
func (i *identities) running() []*corev1.Pod {
	var running []*corev1.Pod
	for _, obj := range i.state.pods.GetStore().List() {
		pod := obj.(*corev1.Pod)
		if pod.Status.Phase == corev1.PodRunning && runningProxyOf(pod) != nil {
			running = append(running, pod)
		}
	}
	return running
}

func runningProxyOf(pod *corev1.Pod) *corev1.Container {
	_, proxy := proxyOf(pod)
	return proxy
}

// load reads an identity pod's issuer when it starts and when the mounted Secret has changed.
func (i *identities) load(ctx context.Context, pod *corev1.Pod, now time.Time) {
	secret, err := i.state.secrets.Secrets(pod.Namespace).Get("linkerd-identity-issuer")
	if err != nil {
		return
	}
	service, known := i.services[pod.UID]
	if !known {
		i.begin(pod, secret)
		return
	}
	crt, key := service.pair(secret)
	content := slices.Concat(crt, key)
	if bytes.Equal(service.seen, content) {
		service.changed = time.Time{}
		return
	}
	if service.changed.IsZero() {
		service.changed = now
	}
	if now.Sub(service.changed) < mountDelay {
		return
	}
	service.seen, service.changed = content, time.Time{}
	loaded, err := loadIssuer(crt, key, service.roots)
	if err != nil {
		message := fmt.Sprintf("Skipping issuer update as certs could not be read from disk: %s", err)
		i.record(ctx, pod.Namespace, corev1.EventTypeWarning, "IssuerUpdateSkipped", message)
		return
	}
	service.issuer = loaded
	i.record(ctx, pod.Namespace, corev1.EventTypeNormal, "IssuerUpdated", "Updated identity issuer")
}

// begin does what an identity pod does when it starts. If the issuer cannot be loaded, a real pod
// exits at once; this one keeps running without an issuer.
func (i *identities) begin(pod *corev1.Pod, secret *corev1.Secret) {
	values, err := i.values(pod.Namespace)
	if err != nil {
		return
	}
	roots, err := i.state.configMaps.ConfigMaps(pod.Namespace).Get("linkerd-identity-trust-roots")
	if err != nil {
		return
	}
	service := &identityPod{
		roots:    x509.NewCertPool(),
		scheme:   values.Identity.Issuer.Scheme,
		lifetime: duration(values.Identity.Issuer.IssuanceLifetime, 24*time.Hour),
		skew:     duration(values.Identity.Issuer.ClockSkewAllowance, 10*time.Second),
		domain:   values.IdentityTrustDomain,
	}
	crt, key := service.pair(secret)
	service.seen = slices.Concat(crt, key)
	service.roots.AppendCertsFromPEM([]byte(roots.Data["ca-bundle.crt"]))
	if service.issuer, err = loadIssuer(crt, key, service.roots); err != nil {
		log.Printf("identity: %s/%s: %v", pod.Namespace, pod.Name, err)
	}
	i.services[pod.UID] = service
}

// pair returns the issuer's certificate and key from its Secret, whose keys depend on the scheme.
func (s *identityPod) pair(secret *corev1.Secret) (crt, key []byte) {
	if s.scheme == "linkerd.io/tls" {
		return secret.Data["crt.pem"], secret.Data["key.pem"]
	}
	return secret.Data["tls.crt"], secret.Data["tls.key"]
}

func (i *identities) values(namespace string) (*identityValues, error) {
	config, err := i.state.configMaps.ConfigMaps(namespace).Get("linkerd-config")
	if err != nil {
		return nil, err
	}
	values := &identityValues{}
	return values, yaml.Unmarshal([]byte(config.Data["values"]), values)
}

// loadIssuer follows loadCredentials of pkg/identity: the issuer must be a CA that the trust roots
// verify, with its key.
func loadIssuer(crt, key []byte, roots *x509.CertPool) (*issuer, error) {
	pair, err := tls.X509KeyPair(crt, key)
	if err != nil {
		return nil, fmt.Errorf("failed to read CA from disk: %w", err)
	}
	certificate, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	if err := verify(pair.Certificate, roots); err != nil {
		return nil, fmt.Errorf("failed to verify issuer credentials with trust anchors: %w", err)
	}
	if !certificate.IsCA {
		return nil, errors.New("failed to verify issuer certificate: it must be an intermediate-CA, but it is not")
	}
	return &issuer{certificate: certificate, chain: pair.Certificate, key: pair.PrivateKey}, nil
}

// verify checks a chain, the leaf first, against trust roots.
func verify(chain [][]byte, roots *x509.CertPool) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, der := range chain[1:] {
		if certificate, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(certificate)
		}
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

func (i *identities) record(ctx context.Context, namespace, kind, reason, message string) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Name:      fmt.Sprintf("linkerd-identity.%x", now.UnixNano()),
			Namespace: namespace,
		},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "apps/v1", Kind: "Deployment", Namespace: namespace, Name: "linkerd-identity",
		},
		Type: kind, Reason: reason, Message: message, Count: 1,
		FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "linkerd-identity"},
	}
	go func() {
		if _, err := i.state.client.CoreV1().Events(namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
			log.Printf("identity: event %s: %v", reason, err)
		}
	}()
}

// supply gives a proxy a leaf when it starts, and a new one at 70 % of the leaf's lifetime. A proxy
// rejects a leaf that its own bundle does not verify, and keeps the one it has.
func (i *identities) supply(pod *corev1.Pod, running []*corev1.Pod, now time.Time) {
	proxy, known := i.proxies[pod.UID]
	if !known {
		bundle, err := i.bundle(pod)
		if err != nil {
			return
		}
		proxy = &carried{bundle: bundle}
		i.proxies[pod.UID] = proxy
	}
	if proxy.chain != "" && now.Before(proxy.refreshed.Add(proxy.notAfter.Sub(proxy.refreshed)*7/10)) {
		return
	}
	var ready []*identityPod
	for _, candidate := range running {
		service := i.services[candidate.UID]
		if service != nil && service.issuer != nil && candidate.Namespace == controlPlaneOf(pod) {
			ready = append(ready, service)
		}
	}
	if len(ready) == 0 {
		return
	}
	service := ready[mathrand.IntN(len(ready))]
	chain, notAfter, err := service.certify(pod, now)
	if err == nil {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(proxy.bundle))
		err = verify(chain, roots)
	}
	if err != nil {
		if proxy.failures++; proxy.failures == 1 {
			log.Printf("identity: %s/%s has no new certificate: %v", pod.Namespace, pod.Name, err)
		}
		return
	}
	proxy.chain, proxy.notAfter, proxy.refreshed = encode(chain), notAfter, now
	proxy.refreshes++
}

func controlPlaneOf(pod *corev1.Pod) string { return pod.Labels[controlPlaneLabel] }

// bundle returns the trust bundle in a proxy's environment, which a proxy reads at its start.
func (i *identities) bundle(pod *corev1.Pod) (string, error) {
	variable := env(runningProxyOf(pod), anchorsVariable)
	switch {
	case variable == nil:
		return "", errors.New("no trust anchors")
	case variable.ValueFrom == nil || variable.ValueFrom.ConfigMapKeyRef == nil:
		return variable.Value, nil
	}
	reference := variable.ValueFrom.ConfigMapKeyRef
	found, err := i.state.configMaps.ConfigMaps(pod.Namespace).Get(reference.Name)
	if err != nil {
		return "", err
	}
	return found.Data[reference.Key], nil
}

// certify follows Certify of pkg/identity and IssueEndEntityCrt of pkg/tls: no leaf outlives its
// issuer, and an issuer that no longer verifies signs none.
func (s *identityPod) certify(pod *corev1.Pod, now time.Time) ([][]byte, time.Time, error) {
	if err := verify(s.issuer.chain, s.roots); err != nil {
		return nil, time.Time{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, time.Time{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return nil, time.Time{}, err
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	name := fmt.Sprintf("%s.%s.serviceaccount.identity.%s.%s", account, pod.Namespace, controlPlaneOf(pod), s.domain)
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		NotBefore:    now.Add(-s.skew),
		NotAfter:     now.Add(s.lifetime + s.skew),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if template.NotAfter.After(s.issuer.certificate.NotAfter) {
		template.NotAfter = s.issuer.certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.issuer.certificate, key.Public(), s.issuer.key)
	if err != nil {
		return nil, time.Time{}, err
	}
	return slices.Concat([][]byte{der}, s.issuer.chain), template.NotAfter, nil
}

// encode returns a chain as PEM.
func encode(chain [][]byte) string {
	text := &strings.Builder{}
	for _, der := range chain {
		_ = pem.Encode(text, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return text.String()
}

// runningProxy is a running proxy with its trust bundle and certificate, for tests.
type runningProxy struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Deleting  bool   `json:"deleting"`
	// Bundle and Chain are PEM; the chain is the leaf with the issuer's chain.
	Bundle string `json:"bundle"`
	Chain  string `json:"chain"`
}

// list returns the proxies that are running now.
func (i *identities) list() []runningProxy {
	running := i.running()
	i.mutex.Lock()
	defer i.mutex.Unlock()
	proxies := []runningProxy{}
	for _, pod := range running {
		proxy := i.proxies[pod.UID]
		if proxy == nil {
			continue
		}
		proxies = append(proxies, runningProxy{
			Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID), Deleting: pod.DeletionTimestamp != nil,
			Bundle: proxy.bundle, Chain: proxy.chain,
		})
	}
	return proxies
}

// metrics returns the metrics of the proxy's certificate as its admin server exposes them. Their
// names in stable releases differ from those in edges.
func (i *identities) metrics(uid types.UID, version string) string {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	text := &strings.Builder{}
	gauge := func(name string, value float64) { fmt.Fprintf(text, "# TYPE %s gauge\n%s %.3f\n", name, name, value) }
	seconds := func(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
	proxy := i.proxies[uid]
	if proxy == nil || proxy.chain == "" {
		return ""
	}
	if strings.HasPrefix(version, "stable-") {
		gauge("identity_cert_expiration_timestamp_seconds", seconds(proxy.notAfter))
		fmt.Fprintf(text, "# TYPE identity_cert_refresh_count counter\nidentity_cert_refresh_count %d\n", proxy.refreshes)
		return text.String()
	}
	gauge("control_identity_cert_expiration_timestamp_seconds", seconds(proxy.notAfter))
	gauge("control_identity_cert_refresh_timestamp_seconds", seconds(proxy.refreshed))
	fmt.Fprintf(text, "# TYPE control_identity_cert_refreshes counter\ncontrol_identity_cert_refreshes_total{result=\"ok\"} %d\n", proxy.refreshes)
	return text.String()
}

func duration(text string, otherwise time.Duration) time.Duration {
	if found, err := time.ParseDuration(text); err == nil {
		return found
	}
	return otherwise
}
