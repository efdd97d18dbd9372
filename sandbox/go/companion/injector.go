package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

const (
	proxyContainer   = "linkerd-proxy"
	initContainer    = "linkerd-init"
	validator        = "linkerd-network-validator"
	injectAnnotation = "linkerd.io/inject"
)

// workloadKinds are the kinds of owner for which Linkerd labels the pod.
var workloadKinds = []string{"deployment", "replicationcontroller", "replicaset", "job", "daemonset", "statefulset"}

// injector treats pods as Linkerd's proxy injector does (controller/proxy-injector and pkg/inject
// of linkerd2). It has no templates: it copies the proxy that the installed chart gave the control
// plane's own pods, and adapts it to the workload.
type injector struct {
	state *state
	// read caches the values of each control plane, so that they are not parsed for every pod.
	read sync.Map
}

// readValues are the values in one version of a ConfigMap.
type readValues struct {
	version string
	values  *meshValues
}

// mesh is what the injector reads from an installed control plane.
type mesh struct {
	controlPlane string
	// template is the pod template of the destination controller.
	template *corev1.PodTemplateSpec
	values   *meshValues
	anchors  string
}

// meshValues are the chart's values, as the chart keeps them in ConfigMap linkerd-config.
type meshValues struct {
	ClusterDomain    string `json:"clusterDomain"`
	PolicyController struct {
		DefaultAllowPolicy string `json:"defaultAllowPolicy"`
	} `json:"policyController"`
	Proxy struct {
		Await                               bool                         `json:"await"`
		DefaultInboundPolicy                string                       `json:"defaultInboundPolicy"`
		OpaquePorts                         scalar                       `json:"opaquePorts"`
		OutboundDiscoveryCacheUnusedTimeout string                       `json:"outboundDiscoveryCacheUnusedTimeout"`
		InboundDiscoveryCacheUnusedTimeout  string                       `json:"inboundDiscoveryCacheUnusedTimeout"`
		Resources                           map[string]map[string]scalar `json:"resources"`
	} `json:"proxy"`
	ProxyInit struct {
		IgnoreOutboundPorts scalar `json:"ignoreOutboundPorts"`
	} `json:"proxyInit"`
}

// scalar is a value that YAML may read as text or as a number: a port, a quantity.
type scalar string

func (s *scalar) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err == nil {
		*s = scalar(text)
		return nil
	}
	if string(data) != "null" {
		*s = scalar(data)
	}
	return nil
}

// inject returns the patch that adds the proxy to a pod, or nil if the pod is not injected.
func (i *injector) inject(controlPlane string, request *admissionv1.AdmissionRequest) ([]patch, error) {
	pod, err := podOf(request)
	if pod == nil || err != nil {
		return nil, err
	}
	namespace, err := i.state.namespace(request.Namespace)
	if err != nil {
		return nil, err
	}
	if len(pod.Spec.Containers) == 0 {
		// Validation, which comes after mutating admission, rejects this pod.
		return nil, nil
	}
	if !wanted(pod, namespace.Annotations) || pod.Spec.HostNetwork || hasSidecar(pod) {
		return nil, nil
	}
	mesh, err := i.mesh(controlPlane)
	if err != nil {
		return nil, err
	}
	if serviceAccountMount(pod) == nil && !mesh.projectsToken() {
		return nil, nil
	}
	return mesh.patches(pod, namespace, i.workload(pod, request.Namespace)), nil
}

func (i *injector) mesh(controlPlane string) (*mesh, error) {
	selector := labels.SelectorFromSet(labels.Set{"linkerd.io/control-plane-component": "destination"})
	found, err := i.state.deployments.Deployments(controlPlane).List(selector)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d Deployments of the destination controller in %s", len(found), controlPlane)
	}
	roots, err := i.state.configMaps.ConfigMaps(controlPlane).Get("linkerd-identity-trust-roots")
	if err != nil {
		return nil, err
	}
	config, err := i.state.configMaps.ConfigMaps(controlPlane).Get("linkerd-config")
	if err != nil {
		return nil, err
	}
	values, err := i.values(config)
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s/linkerd-config: %w", controlPlane, err)
	}
	return &mesh{
		controlPlane: controlPlane,
		template:     &found[0].Spec.Template,
		values:       values,
		anchors:      roots.Data["ca-bundle.crt"],
	}, nil
}

func (i *injector) values(config *corev1.ConfigMap) (*meshValues, error) {
	version := string(config.UID) + " " + config.ResourceVersion
	if found, ok := i.read.Load(config.Namespace); ok && found.(readValues).version == version && config.ResourceVersion != "" {
		return found.(readValues).values, nil
	}
	values := &meshValues{}
	if err := yaml.Unmarshal([]byte(config.Data["values"]), values); err != nil {
		return nil, err
	}
	i.read.Store(config.Namespace, readValues{version, values})
	return values, nil
}

// projectsToken reports whether proxies get their own token instead of the pod's.
func (m *mesh) projectsToken() bool {
	return slices.ContainsFunc(m.template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == "linkerd-identity-token" })
}

func (m *mesh) patches(pod *corev1.Pod, namespace *corev1.Namespace, owner workload) []patch {
	annotations := m.annotations(pod, namespace.Annotations)
	first, proxy, native := m.containers(pod, annotations)
	annotations["linkerd.io/proxy-version"] = imageTag(proxy.Image)

	spec := &pod.Spec
	inits, containers := slices.Clone(spec.InitContainers), slices.Clone(spec.Containers)
	switch {
	case native && first != nil:
		inits = slices.Concat([]corev1.Container{*first, *proxy}, inits)
	case native:
		inits = slices.Insert(inits, 0, *proxy)
	case first != nil:
		inits = append(inits, *first)
	}
	if !native {
		// A proxy with a postStart hook (await) comes first, so that the hook delays the others.
		at := len(containers)
		if proxy.Lifecycle != nil && proxy.Lifecycle.PostStart != nil {
			at = 0
		}
		containers = slices.Insert(containers, at, *proxy)
	}
	used := mounts(proxy)
	if first != nil {
		used = append(used, mounts(first)...)
	}
	volumes := slices.Clone(spec.Volumes)
	for _, volume := range m.template.Spec.Volumes {
		known := slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == volume.Name })
		if slices.Contains(used, volume.Name) && !known {
			volumes = append(volumes, volume)
		}
	}

	labels := map[string]string{}
	maps.Copy(labels, pod.Labels)
	labels["linkerd.io/control-plane-ns"] = m.controlPlane
	labels["linkerd.io/workload-ns"] = namespace.Name
	if slices.Contains(workloadKinds, owner.kind) {
		labels["linkerd.io/proxy-"+owner.kind] = owner.name
	}
	// "add" replaces an existing member (RFC 6902, 4.1).
	return []patch{
		{Op: "add", Path: "/metadata/annotations", Value: annotations},
		{Op: "add", Path: "/metadata/labels", Value: labels},
		{Op: "add", Path: "/spec/initContainers", Value: inits},
		{Op: "add", Path: "/spec/containers", Value: containers},
		{Op: "add", Path: "/spec/volumes", Value: volumes},
	}
}

// annotations returns those of the injected pod: its own, the settings of its namespace, and those
// that this version of Linkerd adds (known from its control plane's pods).
func (m *mesh) annotations(pod *corev1.Pod, namespace map[string]string) map[string]string {
	annotations := map[string]string{}
	for key, value := range namespace {
		if key == injectAnnotation || isSetting(key) {
			annotations[key] = value
		}
	}
	maps.Copy(annotations, pod.Annotations)
	if ports := m.opaquePorts(pod); annotations[configPrefix+"opaque-ports"] == "" && ports != "" {
		annotations[configPrefix+"opaque-ports"] = ports
	}
	if createdBy := strings.Fields(m.template.Annotations["linkerd.io/created-by"]); len(createdBy) > 0 {
		annotations["linkerd.io/created-by"] = "linkerd/proxy-injector " + createdBy[len(createdBy)-1]
	}
	if mode, ok := m.template.Annotations["linkerd.io/identity-mode"]; ok {
		annotations["linkerd.io/identity-mode"] = mode
	}
	if _, ok := m.template.Annotations["linkerd.io/trust-root-sha256"]; ok {
		sum := sha256.Sum256([]byte(m.anchors))
		annotations["linkerd.io/trust-root-sha256"] = hex.EncodeToString(sum[:])
	}
	return annotations
}

// opaquePorts returns the mesh's opaque ports that the pod exposes.
func (m *mesh) opaquePorts(pod *corev1.Pod) string {
	mesh := strings.Split(string(m.values.Proxy.OpaquePorts), ",")
	var exposed []string
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, port := range container.Ports {
			if text := fmt.Sprint(port.ContainerPort); slices.Contains(mesh, text) {
				exposed = append(exposed, text)
			}
		}
	}
	return strings.Join(exposed, ",")
}

// wanted follows Linkerd's truth table (pkg/inject/report.go): a pod's annotation takes precedence
// over its namespace's, and an unknown value on either disables injection.
func wanted(pod *corev1.Pod, namespace map[string]string) bool {
	enables := func(value string) bool { return value == "enabled" || value == "ingress" }
	for _, value := range []string{namespace[injectAnnotation], pod.Annotations[injectAnnotation]} {
		if value != "" && value != "disabled" && !enables(value) {
			return false
		}
	}
	if own := pod.Annotations[injectAnnotation]; own != "" {
		return enables(own)
	}
	return enables(namespace[injectAnnotation])
}

// hasSidecar reports whether a pod already has a proxy of Linkerd or Istio
// (pkg/healthcheck/sidecar.go of linkerd2).
func hasSidecar(pod *corev1.Pod) bool {
	inits := pod.Spec.InitContainers
	return find(slices.Concat(inits, pod.Spec.Containers), proxyContainer, "istio-proxy") != nil ||
		find(inits, initContainer, "istio-init") != nil
}

// workload is the kind and name of a pod's owner, as in Linkerd's label.
type workload struct{ kind, name string }

func (i *injector) workload(pod *corev1.Pod, namespace string) workload {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return workload{}
	}
	if owner.Kind == "ReplicaSet" {
		set, err := i.state.replicaSets.ReplicaSets(namespace).Get(owner.Name)
		if err != nil {
			// The watch may not have seen the pod's ReplicaSet yet. Its name is the Deployment's
			// name and the hash that is also a label of the pod.
			if name, ok := strings.CutSuffix(owner.Name, "-"+pod.Labels["pod-template-hash"]); ok {
				return workload{"deployment", name}
			}
		} else if above := metav1.GetControllerOf(set); above != nil {
			owner = above
		}
	}
	return workload{strings.ToLower(owner.Kind), owner.Name}
}

func podOf(request *admissionv1.AdmissionRequest) (*corev1.Pod, error) {
	if request.Kind.Kind != "Pod" || request.Operation != admissionv1.Create {
		return nil, nil
	}
	pod := &corev1.Pod{}
	return pod, json.Unmarshal(request.Object.Raw, pod)
}
