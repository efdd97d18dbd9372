package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	configPrefix = "config.linkerd.io/"

	serviceAccountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// isSetting reports whether an annotation configures the proxy.
func isSetting(key string) bool {
	return strings.HasPrefix(key, configPrefix) || strings.HasPrefix(key, "config.alpha.linkerd.io/") ||
		strings.HasPrefix(key, "config.beta.linkerd.io/")
}

// containers returns the two containers that injection adds, derived from the control plane's own:
// the one that runs first (linkerd-init, or the network validator with Linkerd's CNI; nil if the
// chart has neither) and the proxy, which is an init container if it is native.
func (m *mesh) containers(pod *corev1.Pod, settings map[string]string) (first, proxy *corev1.Container, native bool) {
	template := &m.template.Spec
	if found := find(template.InitContainers, initContainer, validator); found != nil {
		first = found.DeepCopy()
	}
	if found := find(template.Containers, proxyContainer); found != nil {
		proxy = found.DeepCopy()
	} else if found := find(template.InitContainers, proxyContainer); found != nil {
		proxy, native = found.DeepCopy(), true
	} else {
		// Cannot happen with the charts, which always put the control plane into its own mesh.
		proxy = &corev1.Container{Name: proxyContainer}
	}
	native = makeNative(proxy, native, settings)

	m.adapt(proxy, pod, settings)
	if first != nil {
		m.adaptFirst(first, template, settings)
	}
	if mount := serviceAccountMount(pod); mount != nil {
		proxy.VolumeMounts = append(proxy.VolumeMounts, *mount)
		if first != nil && first.Name == initContainer {
			first.VolumeMounts = append(first.VolumeMounts, *mount)
		}
	}
	return first, proxy, native
}

// makeNative follows the annotation that says whether a proxy is a native sidecar.
func makeNative(proxy *corev1.Container, native bool, settings map[string]string) bool {
	for _, prefix := range []string{configPrefix, "config.beta.linkerd.io/", "config.alpha.linkerd.io/"} {
		asked, err := strconv.ParseBool(settings[prefix+"proxy-enable-native-sidecar"])
		if err != nil {
			continue
		}
		if asked && !native {
			always := corev1.ContainerRestartPolicyAlways
			proxy.RestartPolicy, proxy.Lifecycle = &always, nil
		}
		if !asked && native {
			proxy.RestartPolicy, proxy.StartupProbe = nil, nil
		}
		return asked
	}
	return native
}

// adapt turns the control plane's proxy into a workload's: it resets what the chart sets only for
// the control plane to the mesh's values, then applies the workload's settings.
func (m *mesh) adapt(proxy *corev1.Container, pod *corev1.Pod, settings map[string]string) {
	service := func(name string, port int) string {
		return fmt.Sprintf("%s.%s.svc.%s.:%d", name, m.controlPlane, m.values.ClusterDomain, port)
	}
	setEnv(proxy, "LINKERD2_PROXY_DESTINATION_SVC_ADDR", service("linkerd-dst-headless", 8086))
	setEnv(proxy, "LINKERD2_PROXY_POLICY_SVC_ADDR", service("linkerd-policy", 8090))
	setEnv(proxy, "LINKERD2_PROXY_IDENTITY_SVC_ADDR", service("linkerd-identity-headless", 8080))
	// A workload cannot read the control plane's ConfigMap, so the injector writes its content.
	setEnv(proxy, "LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS", strings.TrimSpace(m.anchors)+"\n")
	setEnv(proxy, "LINKERD2_PROXY_INBOUND_PORTS", inboundPorts(pod))
	policy := m.values.Proxy.DefaultInboundPolicy
	if policy == "" {
		policy = m.values.PolicyController.DefaultAllowPolicy
	}
	if policy != "" {
		setEnv(proxy, "LINKERD2_PROXY_INBOUND_DEFAULT_POLICY", policy)
	}
	if value := m.values.Proxy.OutboundDiscoveryCacheUnusedTimeout; value != "" {
		setEnv(proxy, "LINKERD2_PROXY_OUTBOUND_DISCOVERY_IDLE_TIMEOUT", value)
	}
	if value := m.values.Proxy.InboundDiscoveryCacheUnusedTimeout; value != "" {
		setEnv(proxy, "LINKERD2_PROXY_INBOUND_DISCOVERY_IDLE_TIMEOUT", value)
	}
	if proxy.Lifecycle != nil && !m.values.Proxy.Await {
		proxy.Lifecycle.PostStart = nil
	}
	if proxy.SecurityContext != nil {
		// The capabilities of the main container, or none (pkg/inject/inject.go, injectPodSpec).
		proxy.SecurityContext.Capabilities = nil
		if main := pod.Spec.Containers[0].SecurityContext; main != nil {
			proxy.SecurityContext.Capabilities = main.Capabilities.DeepCopy()
		}
	}
	proxy.Resources = m.resources(settings)

	proxy.Image = image(proxy.Image, settings, "proxy-image", "proxy-version")
	if settings[injectAnnotation] == "ingress" {
		setEnv(proxy, "LINKERD2_PROXY_INGRESS_MODE", "true")
	}
	for name, annotation := range map[string]string{
		"LINKERD2_PROXY_INBOUND_DEFAULT_POLICY":                   "default-inbound-policy",
		"LINKERD2_PROXY_INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION": "opaque-ports",
		"LINKERD2_PROXY_LOG_FORMAT":                               "proxy-log-format",
	} {
		if value, ok := settings[configPrefix+annotation]; ok {
			setEnv(proxy, name, value)
		}
	}
	if level, ok := settings[configPrefix+"proxy-log-level"]; ok {
		// Newer versions append this to keep HTTP headers out of the log.
		suffix := ",[{headers}]=off,[{request}]=off"
		if log := env(proxy, "LINKERD2_PROXY_LOG"); log != nil && strings.HasSuffix(log.Value, suffix) {
			level += suffix
		}
		setEnv(proxy, "LINKERD2_PROXY_LOG", level)
	}
}

// adaptFirst does the same as adapt for the container that runs before the proxy.
func (m *mesh) adaptFirst(first *corev1.Container, template *corev1.PodSpec, settings map[string]string) {
	if proxy := find(slices.Concat(template.Containers, template.InitContainers), proxyContainer); proxy != nil {
		if first.Image == proxy.Image {
			// Newer versions ship it in the proxy's image.
			first.Image = image(first.Image, settings, "proxy-image", "proxy-version")
		} else {
			first.Image = image(first.Image, settings, "init-image", "init-image-version")
		}
		if equality.Semantic.DeepEqual(first.Resources, proxy.Resources) {
			// Those versions also give it the proxy's resources.
			first.Resources = m.resources(settings)
		}
	}
	if first.Name != initContainer {
		return
	}
	// Only the control plane's connections to the API server bypass the proxy.
	outbound := string(m.values.ProxyInit.IgnoreOutboundPorts)
	if value, ok := settings[configPrefix+"skip-outbound-ports"]; ok {
		outbound = value
	}
	setFlag(first, "--outbound-ports-to-ignore", outbound)
	if value, ok := settings[configPrefix+"skip-inbound-ports"]; ok {
		// The first two are the proxy's control and admin ports.
		own := strings.SplitN(flagOf(first, "--inbound-ports-to-ignore"), ",", 3)
		setFlag(first, "--inbound-ports-to-ignore", strings.Join(append(own[:min(2, len(own))], value), ","))
	}
}

// resources returns the mesh's resources for proxies, overridden by the workload's settings.
func (m *mesh) resources(settings map[string]string) corev1.ResourceRequirements {
	resources := corev1.ResourceRequirements{}
	for _, name := range []string{"cpu", "memory", "ephemeral-storage"} {
		for _, bound := range []string{"request", "limit"} {
			value := string(m.values.Proxy.Resources[name][bound])
			if asked, ok := settings[configPrefix+"proxy-"+name+"-"+bound]; ok {
				// Linkerd logs a warning about an invalid quantity and ignores it.
				if _, err := resource.ParseQuantity(asked); err == nil {
					value = asked
				}
			}
			quantity, err := resource.ParseQuantity(value)
			if err != nil {
				continue
			}
			list := &resources.Requests
			if bound == "limit" {
				list = &resources.Limits
			}
			if *list == nil {
				*list = corev1.ResourceList{}
			}
			(*list)[corev1.ResourceName(name)] = quantity
		}
	}
	return resources
}

// inboundPorts returns the ports that a pod's containers expose or that are probed.
func inboundPorts(pod *corev1.Pod) string {
	var ports []string
	add := func(port int32) {
		if text := strconv.Itoa(int(port)); !slices.Contains(ports, text) {
			ports = append(ports, text)
		}
	}
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, port := range container.Ports {
			add(port.ContainerPort)
		}
		for _, probe := range []*corev1.Probe{container.ReadinessProbe, container.LivenessProbe} {
			switch {
			case probe == nil:
			case probe.HTTPGet != nil && probe.HTTPGet.Port.Type == intstr.Int:
				add(probe.HTTPGet.Port.IntVal)
			case probe.TCPSocket != nil && probe.TCPSocket.Port.Type == intstr.Int:
				add(probe.TCPSocket.Port.IntVal)
			}
		}
	}
	slices.Sort(ports)
	return strings.Join(ports, ",")
}

// serviceAccountMount returns the mount of the token in the pod's first container, or nil.
func serviceAccountMount(pod *corev1.Pod) *corev1.VolumeMount {
	for _, mount := range pod.Spec.Containers[0].VolumeMounts {
		if mount.MountPath == serviceAccountPath {
			return &mount
		}
	}
	return nil
}

// image returns a reference with the name and tag that annotations set.
func image(reference string, settings map[string]string, name, version string) string {
	tag := imageTag(reference)
	base := strings.TrimSuffix(reference, ":"+tag)
	if value, ok := settings[configPrefix+name]; ok {
		base = value
	}
	if value, ok := settings[configPrefix+version]; ok {
		tag = value
	}
	if tag == "" {
		return base
	}
	return base + ":" + tag
}

// imageTag returns the tag of an image reference, or "". A registry's port is not a tag.
func imageTag(reference string) string {
	cut := strings.LastIndex(reference, ":")
	if cut < 0 || strings.Contains(reference[cut:], "/") {
		return ""
	}
	return reference[cut+1:]
}

func find(containers []corev1.Container, names ...string) *corev1.Container {
	for index := range containers {
		if slices.Contains(names, containers[index].Name) {
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

func setEnv(container *corev1.Container, name, value string) {
	if variable := env(container, name); variable != nil {
		*variable = corev1.EnvVar{Name: name, Value: value}
		return
	}
	container.Env = append(container.Env, corev1.EnvVar{Name: name, Value: value})
}

// flagOf returns the value of a flag, which is the argument after it.
func flagOf(container *corev1.Container, flag string) string {
	if at := slices.Index(container.Args, flag); at >= 0 && at+1 < len(container.Args) {
		return container.Args[at+1]
	}
	return ""
}

// setFlag sets such a flag, or removes it if the value is empty.
func setFlag(container *corev1.Container, flag, value string) {
	if at := slices.Index(container.Args, flag); at >= 0 {
		container.Args = slices.Delete(container.Args, at, min(at+2, len(container.Args)))
	}
	if value != "" {
		container.Args = append(container.Args, flag, value)
	}
}
