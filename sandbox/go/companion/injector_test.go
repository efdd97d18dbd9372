package main

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

const anchorsPEM = "-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n\n"

const values = `
clusterDomain: cluster.example
proxy:
  await: true
  defaultInboundPolicy: deny
  opaquePorts: "25,3306"
  resources: {cpu: {request: 100m}, memory: {limit: 250Mi}}
proxyInit: {ignoreOutboundPorts: 4567}
`

// destination returns an abridged Deployment of the destination controller as charts render it.
func destination() *appsv1.Deployment {
	proxy := corev1.Container{
		Name:  "linkerd-proxy",
		Image: "registry:5000/linkerd/proxy:edge-1",
		Env: []corev1.EnvVar{
			{Name: "LINKERD2_PROXY_LOG", Value: "warn,[{headers}]=off,[{request}]=off"},
			{Name: "LINKERD2_PROXY_DESTINATION_SVC_ADDR", Value: "localhost.:8086"},
			{Name: "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY", Value: "all-unauthenticated"},
			{Name: "LINKERD2_PROXY_INBOUND_PORTS", Value: "8086"},
			{Name: "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", ValueFrom: &corev1.EnvVarSource{}},
			{Name: "LINKERD2_PROXY_IDENTITY_SVC_NAME", Value: "linkerd-identity.linkerd.serviceaccount.identity.linkerd.cluster.local"},
		},
		SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
		Lifecycle:       &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}},
		VolumeMounts:    []corev1.VolumeMount{{Name: "linkerd-identity-end-entity"}, {Name: "linkerd-identity-token"}},
	}
	first := corev1.Container{
		Name:  "linkerd-init",
		Image: "registry:5000/linkerd/proxy-init:v2",
		Args:  []string{"--inbound-ports-to-ignore", "4190,4191,4567", "--outbound-ports-to-ignore", "443,6443"},
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
		Namespace: "linkerd", Name: "linkerd-destination",
		Labels: map[string]string{"linkerd.io/control-plane-component": "destination"},
	}}
	deployment.Spec.Template.Annotations = map[string]string{
		"linkerd.io/created-by":        "linkerd/helm edge-1",
		"linkerd.io/proxy-version":     "edge-1",
		"linkerd.io/trust-root-sha256": "of the control plane",
	}
	deployment.Spec.Template.Spec = corev1.PodSpec{
		InitContainers: []corev1.Container{first},
		Containers:     []corev1.Container{proxy, {Name: "destination"}},
		Volumes:        []corev1.Volume{{Name: "linkerd-identity-end-entity"}, {Name: "linkerd-identity-token"}, {Name: "sp-tls"}},
	}
	return deployment
}

func workloadPod() *corev1.Pod {
	controls := true
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Labels:          map[string]string{"app": "web", "pod-template-hash": "5d9"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-app-5d9", Controller: &controls}},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name:  "web",
			Ports: []corev1.ContainerPort{{ContainerPort: 8080}, {ContainerPort: 3306}},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "kube-api-access", MountPath: serviceAccountPath, ReadOnly: true},
			},
		}}},
	}
}

// cluster returns a state with a control plane and one more Namespace.
func cluster(t *testing.T, namespace map[string]string, more ...runtime.Object) *state {
	t.Helper()
	configMap := func(name, key, value string) *corev1.ConfigMap {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: name},
			Data:       map[string]string{key: value},
		}
	}
	objects := append(more,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "apps", Annotations: namespace}},
		configMap("linkerd-identity-trust-roots", "ca-bundle.crt", anchorsPEM),
		configMap("linkerd-config", "values", values),
	)
	if !slices.ContainsFunc(more, func(o runtime.Object) bool { _, ok := o.(*appsv1.Deployment); return ok }) {
		objects = append(objects, destination())
	}
	state, err := newState(t.Context(), fake.NewClientset(objects...))
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func request(t *testing.T, pod *corev1.Pod) *admissionv1.AdmissionRequest {
	t.Helper()
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return &admissionv1.AdmissionRequest{
		Kind: metav1.GroupVersionKind{Kind: "Pod"}, Operation: admissionv1.Create,
		Namespace: "apps", Object: runtime.RawExtension{Raw: raw},
	}
}

// admitted returns the pod as the API server would store it after a webhook.
func admitted(t *testing.T, state *state, pod *corev1.Pod, admit func(*injector) admit) *corev1.Pod {
	t.Helper()
	request := request(t, pod)
	response := respond(admit(&injector{state: state}), "linkerd", request)
	if !response.Allowed {
		t.Fatal(response.Result.Message)
	}
	raw := request.Object.Raw
	if response.Patch != nil {
		patch, err := jsonpatch.DecodePatch(response.Patch)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = patch.Apply(raw); err != nil {
			t.Fatal(err)
		}
	}
	stored := &corev1.Pod{}
	if err := json.Unmarshal(raw, stored); err != nil {
		t.Fatal(err)
	}
	return stored
}

func proxyInjector(i *injector) admit { return i.inject }

func names(containers []corev1.Container) string {
	var all []string
	for _, container := range containers {
		all = append(all, container.Name)
	}
	return strings.Join(all, " ")
}

func TestTheProxyIsThatOfTheWorkload(t *testing.T) {
	pod := admitted(t, cluster(t, map[string]string{injectAnnotation: "enabled"}), workloadPod(), proxyInjector)

	if got := names(pod.Spec.InitContainers) + " | " + names(pod.Spec.Containers); got != "linkerd-init | linkerd-proxy web" {
		t.Fatalf("containers: %s", got)
	}
	proxy := find(pod.Spec.Containers, proxyContainer)
	for name, want := range map[string]string{
		"LINKERD2_PROXY_DESTINATION_SVC_ADDR":                     "linkerd-dst-headless.linkerd.svc.cluster.example.:8086",
		"LINKERD2_PROXY_POLICY_SVC_ADDR":                          "linkerd-policy.linkerd.svc.cluster.example.:8090",
		"LINKERD2_PROXY_IDENTITY_SVC_ADDR":                        "linkerd-identity-headless.linkerd.svc.cluster.example.:8080",
		"LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS":                   strings.TrimSpace(anchorsPEM) + "\n",
		"LINKERD2_PROXY_INBOUND_DEFAULT_POLICY":                   "deny",
		"LINKERD2_PROXY_INBOUND_PORTS":                            "3306,8080",
		"LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION": "3306",
	} {
		variable := env(proxy, name)
		if variable == nil || variable.Value != want || variable.ValueFrom != nil {
			t.Errorf("%s: %+v, want %q", name, variable, want)
		}
	}
	if proxy.SecurityContext.Capabilities != nil {
		t.Error("the control plane's capabilities were kept")
	}
	if got := proxy.Resources.Limits.Memory().String() + " " + proxy.Resources.Requests.Cpu().String(); got != "250Mi 100m" {
		t.Errorf("resources: %s", got)
	}
	if got := flagOf(&pod.Spec.InitContainers[0], "--outbound-ports-to-ignore"); got != "4567" {
		t.Errorf("ports that pass the proxy: %s", got)
	}
	if !slices.ContainsFunc(proxy.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "kube-api-access" }) {
		t.Error("the proxy has no token of the pod's account")
	}
	var volumes []string
	for _, volume := range pod.Spec.Volumes {
		volumes = append(volumes, volume.Name)
	}
	if got := strings.Join(volumes, " "); got != "linkerd-identity-end-entity linkerd-identity-token" {
		t.Errorf("volumes: %s", got)
	}
}

func TestAnInjectedPodSaysSo(t *testing.T) {
	before := workloadPod()
	before.Annotations = map[string]string{"linkerd.io/trust-root-sha256": "stale", "mine": "kept"}
	namespace := map[string]string{injectAnnotation: "enabled", configPrefix + "proxy-version": "edge-2", "other": "not copied"}
	pod := admitted(t, cluster(t, namespace), before, proxyInjector)
	wanted := map[string]string{
		injectAnnotation:               "enabled",
		configPrefix + "proxy-version": "edge-2",
		configPrefix + "opaque-ports":  "3306",
		"linkerd.io/created-by":        "linkerd/proxy-injector edge-1",
		"linkerd.io/proxy-version":     "edge-2",
		// The hash of the bundle exactly as it is in its ConfigMap.
		"linkerd.io/trust-root-sha256": sha256Hex(anchorsPEM),
		"mine":                         "kept",
	}
	if !maps.Equal(pod.Annotations, wanted) {
		t.Errorf("annotations: %v", pod.Annotations)
	}
	labels := map[string]string{
		"app": "web", "pod-template-hash": "5d9",
		"linkerd.io/control-plane-ns": "linkerd", "linkerd.io/workload-ns": "apps", "linkerd.io/proxy-deployment": "web-app",
	}
	if !maps.Equal(pod.Labels, labels) {
		t.Errorf("labels: %v", pod.Labels)
	}
	if image := find(pod.Spec.Containers, proxyContainer).Image; image != "registry:5000/linkerd/proxy:edge-2" {
		t.Errorf("image: %s", image)
	}
}

// The cases are the truth table in Linkerd's pkg/inject/report.go and its reasons not to inject a
// pod.
func TestWhichPodsAreInjected(t *testing.T) {
	for name, test := range map[string]struct {
		namespace, pod string
		change         func(*corev1.Pod)
		want           bool
	}{
		"both":                    {namespace: "enabled", pod: "enabled", want: true},
		"namespace":               {namespace: "enabled", want: true},
		"pod against namespace":   {namespace: "enabled", pod: "disabled"},
		"pod in a disabled one":   {namespace: "disabled", pod: "enabled", want: true},
		"pod alone":               {pod: "enabled", want: true},
		"ingress":                 {pod: "ingress", want: true},
		"neither":                 {},
		"namespace disabled":      {namespace: "disabled"},
		"unknown at namespace":    {namespace: "true", pod: "enabled"},
		"unknown at pod":          {namespace: "enabled", pod: "yes"},
		"host network":            {pod: "enabled", change: func(p *corev1.Pod) { p.Spec.HostNetwork = true }},
		"has a proxy":             {pod: "enabled", change: func(p *corev1.Pod) { p.Spec.Containers[0].Name = proxyContainer }},
		"has a native proxy":      {pod: "enabled", change: func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: proxyContainer}} }},
		"has Istio's":             {pod: "enabled", change: func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "istio-init"}} }},
		"without the pod's token": {pod: "enabled", want: true, change: func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			pod := workloadPod()
			if test.pod != "" {
				pod.Annotations = map[string]string{injectAnnotation: test.pod}
			}
			if test.change != nil {
				test.change(pod)
			}
			namespace := map[string]string{}
			if test.namespace != "" {
				namespace[injectAnnotation] = test.namespace
			}
			after := admitted(t, cluster(t, namespace), pod, proxyInjector)
			if got := after.Annotations["linkerd.io/created-by"] != ""; got != test.want {
				t.Errorf("injected: %v", got)
			}
		})
	}
}

func TestAProxyWithoutATokenIsNotInjected(t *testing.T) {
	deployment := destination()
	deployment.Spec.Template.Spec.Volumes = nil
	pod := workloadPod()
	pod.Spec.Containers[0].VolumeMounts = nil
	after := admitted(t, cluster(t, map[string]string{injectAnnotation: "enabled"}, deployment), pod, proxyInjector)
	if hasSidecar(after) {
		t.Error("a proxy that cannot have an identity was injected")
	}
}

func TestSettingsOfTheWorkload(t *testing.T) {
	before := workloadPod()
	before.Annotations = map[string]string{
		injectAnnotation:                        "ingress",
		configPrefix + "proxy-image":            "mirror:5000/proxy",
		configPrefix + "proxy-memory-limit":     "1Gi",
		configPrefix + "proxy-cpu-request":      "no quantity",
		configPrefix + "proxy-log-level":        "debug",
		configPrefix + "default-inbound-policy": "all-authenticated",
		configPrefix + "skip-inbound-ports":     "26",
		configPrefix + "skip-outbound-ports":    "25",
	}
	pod := admitted(t, cluster(t, nil), before, proxyInjector)
	proxy, first := find(pod.Spec.Containers, proxyContainer), &pod.Spec.InitContainers[0]
	for what, pair := range map[string][2]string{
		"image":        {proxy.Image, "mirror:5000/proxy:edge-1"},
		"init's image": {first.Image, "registry:5000/linkerd/proxy-init:v2"},
		"memory":       {proxy.Resources.Limits.Memory().String(), "1Gi"},
		"cpu":          {proxy.Resources.Requests.Cpu().String(), "100m"},
		"log":          {env(proxy, "LINKERD2_PROXY_LOG").Value, "debug,[{headers}]=off,[{request}]=off"},
		"policy":       {env(proxy, "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY").Value, "all-authenticated"},
		"ingress":      {env(proxy, "LINKERD2_PROXY_INGRESS_MODE").Value, "true"},
		"inbound":      {flagOf(first, "--inbound-ports-to-ignore"), "4190,4191,26"},
		"outbound":     {flagOf(first, "--outbound-ports-to-ignore"), "25"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %s, want %s", what, pair[0], pair[1])
		}
	}
}

func TestANativeSidecarRunsBeforeOtherInitContainers(t *testing.T) {
	before := workloadPod()
	before.Annotations = map[string]string{injectAnnotation: "enabled", configPrefix + "proxy-enable-native-sidecar": "true"}
	before.Spec.InitContainers = []corev1.Container{{Name: "migrate"}}
	pod := admitted(t, cluster(t, nil), before, proxyInjector)
	if got := names(pod.Spec.InitContainers) + " | " + names(pod.Spec.Containers); got != "linkerd-init linkerd-proxy migrate | web" {
		t.Fatalf("containers: %s", got)
	}
	proxy := pod.Spec.InitContainers[1]
	if proxy.RestartPolicy == nil || *proxy.RestartPolicy != corev1.ContainerRestartPolicyAlways || proxy.Lifecycle != nil {
		t.Errorf("no native sidecar: %+v", proxy)
	}
}

func TestAnInjectorWithoutItsControlPlaneRefuses(t *testing.T) {
	state := cluster(t, map[string]string{injectAnnotation: "enabled"})
	if err := state.client.CoreV1().ConfigMaps("linkerd").Delete(context.Background(), "linkerd-config", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		response := respond((&injector{state: state}).inject, "linkerd", request(t, workloadPod()))
		return !response.Allowed && strings.Contains(response.Result.Message, "linkerd-config")
	})
}

func TestExtensionsAddToTheProxyOnce(t *testing.T) {
	extension := func(name string, arguments ...string) *appsv1.Deployment {
		deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "linkerd", Name: name}}
		deployment.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web", Args: arguments}}
		return deployment
	}
	state := cluster(t, map[string]string{injectAnnotation: "enabled"}, destination(),
		extension("tap-injector", "-tap-service-name=tap.viz.serviceaccount.identity.linkerd.cluster.local"),
		extension("jaeger-injector", "-collector-svc-addr=collector.linkerd-jaeger:55678", "-collector-svc-account=collector"))
	tap := func(i *injector) admit { return i.tap }
	jaeger := func(i *injector) admit { return i.jaeger }

	if pod := admitted(t, state, workloadPod(), tap); len(pod.Annotations) != 0 {
		t.Error("a pod without a proxy was changed")
	}
	pod := admitted(t, state, workloadPod(), proxyInjector)
	for range 2 {
		pod = admitted(t, state, admitted(t, state, pod, tap), jaeger)
	}
	proxy := find(pod.Spec.Containers, proxyContainer)
	for name, want := range map[string]string{
		"LINKERD2_PROXY_TAP_SVC_NAME":             "tap.viz.serviceaccount.identity.linkerd.cluster.local",
		"LINKERD2_PROXY_TRACE_COLLECTOR_SVC_ADDR": "collector.linkerd-jaeger:55678",
		"LINKERD2_PROXY_TRACE_COLLECTOR_SVC_NAME": "collector.linkerd-jaeger.serviceaccount.identity.linkerd.cluster.local",
	} {
		count := 0
		for _, variable := range proxy.Env {
			if variable.Name == name && variable.Value == want {
				count++
			}
		}
		if count != 1 {
			t.Errorf("%s: %d times", name, count)
		}
	}
	if pod.Annotations["viz.linkerd.io/tap-enabled"] != "true" || pod.Annotations["jaeger.linkerd.io/tracing-enabled"] != "true" {
		t.Errorf("annotations: %v", pod.Annotations)
	}
}

func TestTagOfAnImage(t *testing.T) {
	for reference, want := range map[string]string{
		"cr.l5d.io/linkerd/proxy:stable-2.14.10": "stable-2.14.10",
		"registry:5000/proxy":                    "",
		"proxy":                                  "",
	} {
		if got := imageTag(reference); got != want {
			t.Errorf("%s: %q", reference, got)
		}
	}
}
