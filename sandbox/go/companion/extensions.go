package main

import (
	"fmt"
	"strconv"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// tap is viz's tap injector: it lets the tap server connect to the proxy (viz/tap/injector of
// linkerd2).
func (i *injector) tap(extension string, request *admissionv1.AdmissionRequest) ([]patch, error) {
	pod, err := podOf(request)
	if pod == nil || err != nil {
		return nil, err
	}
	path, proxy := proxyOf(pod)
	if proxy == nil || pod.Annotations["viz.linkerd.io/tap-enabled"] == "true" {
		return nil, nil
	}
	namespace, err := i.state.namespace(request.Namespace)
	if err != nil {
		return nil, err
	}
	for _, annotations := range []map[string]string{namespace.Annotations, pod.Annotations} {
		if annotations["viz.linkerd.io/disable-tap"] == "true" {
			return nil, nil
		}
	}
	deployment, err := i.state.deployments.Deployments(extension).Get("tap-injector")
	if err != nil {
		return nil, err
	}
	server := argument(deployment, "-tap-service-name")
	if server == "" {
		server = fmt.Sprintf("tap.%s.serviceaccount.identity.%s", extension, identitySuffix(proxy))
	}
	return []patch{
		annotate(pod, "viz.linkerd.io/tap-enabled", "true"),
		addEnv(path, "LINKERD2_PROXY_TAP_SVC_NAME", server),
	}, nil
}

// jaeger is the jaeger injector: it points the proxy at the collector (jaeger/injector/mutator of
// linkerd2).
func (i *injector) jaeger(extension string, request *admissionv1.AdmissionRequest) ([]patch, error) {
	pod, err := podOf(request)
	if pod == nil || err != nil {
		return nil, err
	}
	path, proxy := proxyOf(pod)
	if proxy == nil || pod.Annotations["jaeger.linkerd.io/tracing-enabled"] == "true" {
		return nil, nil
	}
	namespace, err := i.state.namespace(request.Namespace)
	if err != nil {
		return nil, err
	}
	deployment, err := i.state.deployments.Deployments(extension).Get("jaeger-injector")
	if err != nil {
		return nil, err
	}
	setting := func(flag, annotation string) string {
		for _, annotations := range []map[string]string{pod.Annotations, namespace.Annotations} {
			if value, ok := annotations[annotation]; ok {
				return value
			}
		}
		return argument(deployment, flag)
	}
	address := setting("-collector-svc-addr", configPrefix+"trace-collector")
	if address == "" {
		return nil, nil
	}
	account := setting("-collector-svc-account", "config.alpha.linkerd.io/trace-collector-service-account")
	// The collector's namespace is the second part of its name.
	host, _, _ := strings.Cut(address, ":")
	collector := request.Namespace
	if parts := strings.Split(host, "."); len(parts) > 1 {
		collector = parts[1]
	}
	patches := []patch{
		annotate(pod, "jaeger.linkerd.io/tracing-enabled", "true"),
		addEnv(path, "LINKERD2_PROXY_TRACE_ATTRIBUTES_PATH", "/var/run/linkerd/podinfo/labels"),
		addEnv(path, "LINKERD2_PROXY_TRACE_COLLECTOR_SVC_ADDR", address),
		addEnv(path, "LINKERD2_PROXY_TRACE_COLLECTOR_SVC_NAME",
			fmt.Sprintf("%s.%s.serviceaccount.identity.%s", account, collector, identitySuffix(proxy))),
	}
	volume := "podinfo"
	// Only versions with OpenTelemetry have this flag; they also prefix the volume with "linkerd-".
	if protocol := setting("-collector-trace-protocol", configPrefix+"trace-collector-protocol"); protocol != "" {
		volume = "linkerd-podinfo"
		patches = append(patches,
			addEnv(path, "LINKERD2_PROXY_TRACE_PROTOCOL", protocol),
			addEnv(path, "LINKERD2_PROXY_TRACE_SERVICE_NAME",
				setting("-collector-trace-svc-name", configPrefix+"trace-collector-name")),
			addEnv(path, "LINKERD2_PROXY_TRACE_EXTRA_ATTRIBUTES",
				"k8s.pod.uid=$(_pod_uid)\nk8s.container.name=$(_pod_containerName)"))
	}
	labels := corev1.DownwardAPIVolumeFile{
		Path:     "labels",
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"},
	}
	return append(patches,
		patch{Op: "add", Path: path + "/volumeMounts/-", Value: corev1.VolumeMount{
			Name: volume, MountPath: "var/run/linkerd/podinfo",
		}},
		patch{Op: "add", Path: "/spec/volumes/-", Value: corev1.Volume{
			Name: volume,
			VolumeSource: corev1.VolumeSource{
				DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{labels}},
			},
		}},
	), nil
}

// proxyOf returns an injected proxy and its path in the pod.
func proxyOf(pod *corev1.Pod) (string, *corev1.Container) {
	for _, place := range []struct {
		path       string
		containers []corev1.Container
	}{
		{"/spec/containers/", pod.Spec.Containers},
		{"/spec/initContainers/", pod.Spec.InitContainers},
	} {
		for index := range place.containers {
			if place.containers[index].Name == proxyContainer {
				return place.path + strconv.Itoa(index), &place.containers[index]
			}
		}
	}
	return "", nil
}

// identitySuffix returns "<control plane namespace>.<trust domain>" of a proxy.
func identitySuffix(proxy *corev1.Container) string {
	if name := env(proxy, "LINKERD2_PROXY_IDENTITY_SVC_NAME"); name != nil {
		if _, suffix, ok := strings.Cut(name.Value, ".serviceaccount.identity."); ok {
			return suffix
		}
	}
	return "$(_l5d_ns).$(_l5d_trustdomain)"
}

func addEnv(path, name, value string) patch {
	return patch{Op: "add", Path: path + "/env/-", Value: corev1.EnvVar{Name: name, Value: value}}
}

// annotate returns the patch that adds an annotation to a pod.
func annotate(pod *corev1.Pod, key, value string) patch {
	if pod.Annotations == nil {
		return patch{Op: "add", Path: "/metadata/annotations", Value: map[string]string{key: value}}
	}
	// A JSON pointer writes "/" as "~1" (RFC 6901).
	return patch{Op: "add", Path: "/metadata/annotations/" + strings.ReplaceAll(key, "/", "~1"), Value: value}
}

// argument returns the value of a flag that is written with "=".
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
