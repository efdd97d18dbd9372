package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	proxyContainer = "linkerd-proxy"
	initContainer  = "linkerd-init"

	injectAnnotation = "linkerd.io/inject"
	configPrefix     = "config.linkerd.io/"
)

// injector adds to pods what Linkerd's injectors add. It has no templates: the proxy it adds is the
// one that the installed chart gave the control plane's own pods, adapted to the workload.
type injector struct{ state *state }

// proxy is the proxy injector.
func (i *injector) proxy(controlPlane string, request *admissionv1.AdmissionRequest) ([]patch, error) {
	pod, err := podOf(request)
	if pod == nil || err != nil {
		return nil, err
	}
	settings := i.settings(pod, request.Namespace)
	mode := settings[injectAnnotation]
	if mode != "enabled" && mode != "ingress" {
		return nil, nil
	}
	if pod.Spec.HostNetwork || hasContainer(pod, proxyContainer) {
		return nil, nil
	}
	template, err := i.template(controlPlane)
	if err != nil {
		return nil, err
	}
	bundle, err := i.state.configMaps.ConfigMaps(controlPlane).Get("linkerd-identity-trust-roots")
	if err != nil {
		return nil, err
	}
	anchors := bundle.Data["ca-bundle.crt"]

	patches := i.metadata(pod, request.Namespace, controlPlane, template, anchors)
	var volumes []string
	if init := find(template.Spec.InitContainers, initContainer); init != nil {
		init = init.DeepCopy()
		volumes = append(volumes, mounts(init)...)
		patches = append(patches, appendTo(&patches, "/spec/initContainers", len(pod.Spec.InitContainers) == 0, init)...)
	}
	proxy, native := find(template.Spec.Containers, proxyContainer), false
	if proxy == nil {
		proxy, native = find(template.Spec.InitContainers, proxyContainer), true
	}
	if proxy == nil {
		return nil, fmt.Errorf("Deployment %s/linkerd-destination has no container %s", controlPlane, proxyContainer)
	}
	proxy = proxy.DeepCopy()
	adapt(proxy, pod, controlPlane, mode, anchors)
	if err := override(proxy, settings); err != nil {
		return nil, err
	}
	volumes = append(volumes, mounts(proxy)...)
	switch {
	case native:
		patches = append(patches, appendTo(&patches, "/spec/initContainers", len(pod.Spec.InitContainers) == 0, proxy)...)
	case proxy.Lifecycle != nil && proxy.Lifecycle.PostStart != nil:
		// A proxy that is awaited comes first, so that its hook holds the others back.
		patches = append(patches, patch{Op: "add", Path: "/spec/containers/0", Value: proxy})
	default:
		patches = append(patches, patch{Op: "add", Path: "/spec/containers/-", Value: proxy})
	}
	for _, volume := range template.Spec.Volumes {
		known := slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == volume.Name })
		if slices.Contains(volumes, volume.Name) && !known {
			patches = append(patches, appendTo(&patches, "/spec/volumes", len(pod.Spec.Volumes) == 0, volume)...)
		}
	}
	return patches, nil
}

// tap is viz's tap injector: it lets the tap server connect to the proxy.
func (i *injector) tap(extension string, request *admissionv1.AdmissionRequest) ([]patch, error) {
	pod, err := podOf(request)
	if pod == nil || err != nil {
		return nil, err
	}
	if i.settings(pod, request.Namespace)["viz.linkerd.io/disable-tap"] == "true" {
		return nil, nil
	}
	path, proxy := proxyOf(pod)
	if proxy == nil || env(proxy, "LINKERD2_PROXY_TAP_SVC_NAME") != nil {
		return nil, nil
	}
	identity := "tap." + extension + ".serviceaccount.identity." + suffixOfIdentity(proxy)
	return []patch{
		{Op: "add", Path: path + "/env/-", Value: corev1.EnvVar{Name: "LINKERD2_PROXY_TAP_SVC_NAME", Value: identity}},
		annotate(pod, "viz.linkerd.io/tap-enabled", "true"),
	}, nil
}

// jaeger is the jaeger injector: it points the proxy at the collector.
func (i *injector) jaeger(extension string, request *admissionv1.AdmissionRequest) ([]patch, error) {
	pod, err := podOf(request)
	if pod == nil || err != nil {
		return nil, err
	}
	path, proxy := proxyOf(pod)
	if proxy == nil || env(proxy, "LINKERD2_PROXY_TRACE_COLLECTOR_SVC_ADDR") != nil {
		return nil, nil
	}
	deployment, err := i.state.deployments.Deployments(extension).Get("jaeger-injector")
	if err != nil {
		return nil, err
	}
	address := argument(deployment, "-collector-svc-addr")
	account := argument(deployment, "-collector-svc-account")
	added := []corev1.EnvVar{
		{Name: "LINKERD2_PROXY_TRACE_ATTRIBUTES_PATH", Value: "/var/run/linkerd/podinfo/labels"},
		{Name: "LINKERD2_PROXY_TRACE_COLLECTOR_SVC_ADDR", Value: address},
		{Name: "LINKERD2_PROXY_TRACE_COLLECTOR_SVC_NAME", Value: account + "." + extension + ".serviceaccount.identity." + suffixOfIdentity(proxy)},
		{Name: "LINKERD2_PROXY_TRACE_EXTRA_ATTRIBUTES", Value: "k8s.pod.uid=$(_pod_uid)\nk8s.container.name=$(_pod_containerName)"},
	}
	patches := []patch{annotate(pod, "jaeger.linkerd.io/tracing-enabled", "true")}
	for _, variable := range added {
		patches = append(patches, patch{Op: "add", Path: path + "/env/-", Value: variable})
	}
	return patches, nil
}

// settings are a pod's inject and config annotations over those of its namespace.
func (i *injector) settings(pod *corev1.Pod, namespace string) map[string]string {
	settings := map[string]string{}
	take := func(annotations map[string]string) {
		for key, value := range annotations {
			if key == injectAnnotation || strings.HasPrefix(key, configPrefix) || key == "viz.linkerd.io/disable-tap" {
				settings[key] = value
			}
		}
	}
	if found, err := i.state.namespaces.Get(namespace); err == nil {
		take(found.Annotations)
	}
	take(pod.Annotations)
	return settings
}

func (i *injector) template(controlPlane string) (*corev1.PodTemplateSpec, error) {
	selector := labels.SelectorFromSet(labels.Set{"linkerd.io/control-plane-component": "destination"})
	found, err := i.state.deployments.Deployments(controlPlane).List(selector)
	if err != nil {
		return nil, err
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d Deployments of the destination controller in %s", len(found), controlPlane)
	}
	return &found[0].Spec.Template, nil
}

func (i *injector) metadata(pod *corev1.Pod, namespace, controlPlane string, template *corev1.PodTemplateSpec, anchors string) []patch {
	annotations, labels := map[string]string{}, map[string]string{}
	if createdBy := strings.Fields(template.Annotations["linkerd.io/created-by"]); len(createdBy) > 0 {
		annotations["linkerd.io/created-by"] = "linkerd/proxy-injector " + createdBy[len(createdBy)-1]
	}
	for _, key := range []string{"linkerd.io/proxy-version", "linkerd.io/identity-mode"} {
		if value, ok := template.Annotations[key]; ok {
			annotations[key] = value
		}
	}
	if _, ok := template.Annotations["linkerd.io/trust-root-sha256"]; ok {
		sum := sha256.Sum256([]byte(anchors))
		annotations["linkerd.io/trust-root-sha256"] = hex.EncodeToString(sum[:])
	}
	labels["linkerd.io/control-plane-ns"] = controlPlane
	labels["linkerd.io/workload-ns"] = namespace
	if kind, name := i.workload(pod, namespace); kind != "" {
		labels["linkerd.io/proxy-"+kind] = name
	}
	for key, value := range pod.Annotations {
		annotations[key] = value
	}
	if version, ok := annotations[configPrefix+"proxy-version"]; ok {
		annotations["linkerd.io/proxy-version"] = version
	}
	for key, value := range pod.Labels {
		labels[key] = value
	}
	return []patch{
		{Op: "add", Path: "/metadata/annotations", Value: annotations},
		{Op: "add", Path: "/metadata/labels", Value: labels},
	}
}

// workload is the kind and name that owns a pod, as Linkerd labels it.
func (i *injector) workload(pod *corev1.Pod, namespace string) (kind, name string) {
	for _, owner := range pod.OwnerReferences {
		if owner.Controller == nil || !*owner.Controller {
			continue
		}
		if owner.Kind != "ReplicaSet" {
			return strings.ToLower(owner.Kind), owner.Name
		}
		set, err := i.state.replicaSets.ReplicaSets(namespace).Get(owner.Name)
		if err != nil {
			// The watch may be a moment behind the ReplicaSet whose pod this is.
			if cut := strings.LastIndex(owner.Name, "-"); cut > 0 {
				return "deployment", owner.Name[:cut]
			}
			return "replicaset", owner.Name
		}
		for _, above := range set.OwnerReferences {
			if above.Kind == "Deployment" {
				return "deployment", above.Name
			}
		}
		return "replicaset", owner.Name
	}
	return "", ""
}

// adapt turns the control plane's own proxy into that of a workload.
func adapt(proxy *corev1.Container, pod *corev1.Pod, controlPlane, mode, anchors string) {
	domain := "cluster.local"
	if suffixes := env(proxy, "LINKERD2_PROXY_DESTINATION_PROFILE_SUFFIXES"); suffixes != nil {
		domain = strings.TrimSuffix(strings.TrimPrefix(strings.Split(suffixes.Value, ",")[0], "svc."), ".")
	}
	set(proxy, "LINKERD2_PROXY_DESTINATION_SVC_ADDR", fmt.Sprintf("linkerd-dst-headless.%s.svc.%s.:8086", controlPlane, domain))
	set(proxy, "LINKERD2_PROXY_POLICY_SVC_ADDR", fmt.Sprintf("linkerd-policy.%s.svc.%s.:8090", controlPlane, domain))
	set(proxy, "LINKERD2_PROXY_IDENTITY_SVC_ADDR", fmt.Sprintf("linkerd-identity-headless.%s.svc.%s.:8080", controlPlane, domain))
	// A workload cannot read the control plane's ConfigMap, so the injector writes its content.
	set(proxy, "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", anchors)
	var ports []int
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			ports = append(ports, int(port.ContainerPort))
		}
	}
	slices.Sort(ports)
	var texts []string
	for _, port := range slices.Compact(ports) {
		texts = append(texts, strconv.Itoa(port))
	}
	set(proxy, "LINKERD2_PROXY_INBOUND_PORTS", strings.Join(texts, ","))
	if mode == "ingress" {
		set(proxy, "LINKERD2_PROXY_INGRESS_MODE", "true")
	}
}

// override applies the config.linkerd.io annotations that change the container itself.
func override(proxy *corev1.Container, settings map[string]string) error {
	cut := strings.LastIndex(proxy.Image, ":")
	name, version := proxy.Image[:cut], proxy.Image[cut+1:]
	if value, ok := settings[configPrefix+"proxy-image"]; ok {
		name = value
	}
	if value, ok := settings[configPrefix+"proxy-version"]; ok {
		version = value
	}
	proxy.Image = name + ":" + version
	if value, ok := settings[configPrefix+"proxy-log-level"]; ok {
		set(proxy, "LINKERD2_PROXY_LOG", value)
	}
	for annotation, place := range map[string]struct {
		list *corev1.ResourceList
		name corev1.ResourceName
	}{
		"proxy-cpu-request":    {&proxy.Resources.Requests, corev1.ResourceCPU},
		"proxy-cpu-limit":      {&proxy.Resources.Limits, corev1.ResourceCPU},
		"proxy-memory-request": {&proxy.Resources.Requests, corev1.ResourceMemory},
		"proxy-memory-limit":   {&proxy.Resources.Limits, corev1.ResourceMemory},
	} {
		value, ok := settings[configPrefix+annotation]
		if !ok {
			continue
		}
		quantity, err := resource.ParseQuantity(value)
		if err != nil {
			return fmt.Errorf("annotation %s%s: %w", configPrefix, annotation, err)
		}
		if *place.list == nil {
			*place.list = corev1.ResourceList{}
		}
		(*place.list)[place.name] = quantity
	}
	return nil
}

func podOf(request *admissionv1.AdmissionRequest) (*corev1.Pod, error) {
	if request.Kind.Kind != "Pod" || request.Operation != admissionv1.Create {
		return nil, nil
	}
	pod := &corev1.Pod{}
	return pod, json.Unmarshal(request.Object.Raw, pod)
}

// proxyOf finds an injected proxy and its path in the pod.
func proxyOf(pod *corev1.Pod) (string, *corev1.Container) {
	for place, containers := range map[string][]corev1.Container{
		"/spec/containers/":     pod.Spec.Containers,
		"/spec/initContainers/": pod.Spec.InitContainers,
	} {
		for index := range containers {
			if containers[index].Name == proxyContainer {
				return place + strconv.Itoa(index), &containers[index]
			}
		}
	}
	return "", nil
}

func hasContainer(pod *corev1.Pod, name string) bool {
	return find(pod.Spec.Containers, name) != nil || find(pod.Spec.InitContainers, name) != nil
}

func find(containers []corev1.Container, name string) *corev1.Container {
	for index := range containers {
		if containers[index].Name == name {
			return &containers[index]
		}
	}
	return nil
}

func mounts(container *corev1.Container) []string {
	var names []string
	for _, mount := range container.VolumeMounts {
		names = append(names, mount.Name)
	}
	return names
}

func env(container *corev1.Container, name string) *corev1.EnvVar {
	for index := range container.Env {
		if container.Env[index].Name == name {
			return &container.Env[index]
		}
	}
	return nil
}

func set(container *corev1.Container, name, value string) {
	if variable := env(container, name); variable != nil {
		*variable = corev1.EnvVar{Name: name, Value: value}
		return
	}
	container.Env = append(container.Env, corev1.EnvVar{Name: name, Value: value})
}

// suffixOfIdentity is "<control plane namespace>.<trust domain>" of a proxy.
func suffixOfIdentity(proxy *corev1.Container) string {
	if name := env(proxy, "LINKERD2_PROXY_IDENTITY_SVC_NAME"); name != nil {
		if _, suffix, ok := strings.Cut(name.Value, ".serviceaccount.identity."); ok {
			return suffix
		}
	}
	return "linkerd.cluster.local"
}

// appendTo appends to a list of the pod, which the first of our patches to it must make.
func appendTo(earlier *[]patch, list string, missing bool, value any) []patch {
	made := slices.ContainsFunc(*earlier, func(p patch) bool { return strings.HasPrefix(p.Path, list) })
	if missing && !made {
		return []patch{{Op: "add", Path: list, Value: []any{value}}}
	}
	return []patch{{Op: "add", Path: list + "/-", Value: value}}
}

func annotate(pod *corev1.Pod, key, value string) patch {
	if pod.Annotations == nil {
		return patch{Op: "add", Path: "/metadata/annotations", Value: map[string]string{key: value}}
	}
	escaped := strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
	return patch{Op: "add", Path: "/metadata/annotations/" + escaped, Value: value}
}

func argument(deployment *appsv1.Deployment, flag string) string {
	for _, container := range deployment.Spec.Template.Spec.Containers {
		for _, argument := range container.Args {
			if value, ok := strings.CutPrefix(argument, flag+"="); ok {
				return value
			}
		}
	}
	return ""
}
