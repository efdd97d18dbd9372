package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// patch is one operation of a JSON patch (RFC 6902).
type patch struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// admit returns the patch to apply to an admission request, or the error with which to refuse it.
type admit func(namespace string, request *admissionv1.AdmissionRequest) ([]patch, error)

// allow stands in for a validator. Real ones check the objects; here only the CRDs' schemas do.
func allow(string, *admissionv1.AdmissionRequest) ([]patch, error) { return nil, nil }

// backends returns the servers that the charts of Linkerd, cert-manager and trust-manager register,
// by Service name.
func backends(state *state, certManager *certManagerAuthority, trust *trustManager) map[string]backend {
	injector := &injector{state: state}
	mounted := func(secret string, admit admit) backend {
		return backend{certificate: state.mountedCertificate(secret), handler: webhook(admit)}
	}
	return map[string]backend{
		"linkerd-proxy-injector":   mounted("linkerd-proxy-injector-k8s-tls", injector.inject),
		"linkerd-sp-validator":     mounted("linkerd-sp-validator-k8s-tls", allow),
		"linkerd-policy-validator": mounted("linkerd-policy-validator-k8s-tls", allow),
		"tap-injector":             mounted("tap-injector-k8s-tls", injector.tap),
		"jaeger-injector":          mounted("jaeger-injector-k8s-tls", injector.jaeger),
		"tap": {
			certificate: state.mountedCertificate("tap-k8s-tls"),
			handler:     func(string) http.Handler { return http.HandlerFunc(tapDiscovery) },
		},
		"cert-manager-webhook": {
			certificate: certManager.certificate,
			handler:     webhook(identifyRequester),
		},
		"trust-manager": {
			certificate: state.mountedCertificate("trust-manager-tls"),
			handler:     func(string) http.Handler { return trust },
		},
	}
}

// mountedCertificate reads a server's certificate from the Secret that its pods would mount.
func (s *state) mountedCertificate(name string) func(string) (*tls.Certificate, error) {
	return func(namespace string) (*tls.Certificate, error) {
		secret, err := s.secrets.Secrets(namespace).Get(name)
		if err != nil {
			return nil, err
		}
		certificate, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
		if err != nil {
			return nil, fmt.Errorf("Secret %s/%s: %w", namespace, name, err)
		}
		return &certificate, nil
	}
}

// webhook serves admission reviews.
func webhook(admit admit) func(string) http.Handler {
	return func(namespace string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			var review admissionv1.AdmissionReview
			if err := json.Unmarshal(body, &review); err != nil || review.Request == nil {
				http.Error(w, "no admission review", http.StatusBadRequest)
				return
			}
			if strings.HasSuffix(r.URL.Path, "/validate") {
				// cert-manager's server has both kinds of webhook; only a mutating one may patch.
				review.Response = respond(allow, namespace, review.Request)
			} else {
				review.Response = respond(admit, namespace, review.Request)
			}
			review.Request = nil
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(review)
		})
	}
}

func respond(admit admit, namespace string, request *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	response := &admissionv1.AdmissionResponse{UID: request.UID, Allowed: true}
	patches, err := admit(namespace, request)
	if err == nil && len(patches) > 0 {
		response.Patch, err = json.Marshal(patches)
		kind := admissionv1.PatchTypeJSONPatch
		response.PatchType = &kind
	}
	if err != nil {
		log.Printf("webhook: refused %s %s/%s: %v", request.Kind.Kind, request.Namespace, request.Name, err)
		return &admissionv1.AdmissionResponse{UID: request.UID, Result: &metav1.Status{Message: err.Error()}}
	}
	return response
}

// tapDiscovery makes the APIService of viz's tap available; there is no traffic to tap.
func tapDiscovery(w http.ResponseWriter, r *http.Request) {
	if strings.TrimSuffix(r.URL.Path, "/") != "/apis/tap.linkerd.io/v1alpha1" {
		http.NotFound(w, r)
		return
	}
	list := metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: "tap.linkerd.io/v1alpha1",
	}
	for _, kind := range []string{"Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "ReplicaSet"} {
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: strings.ToLower(kind) + "s/tap", Kind: "Tap", Namespaced: true, Verbs: metav1.Verbs{"watch"},
		})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}

// identifyRequester writes the requester into a new CertificateRequest, as cert-manager's webhook
// does; its approver and signers trust these fields.
func identifyRequester(_ string, request *admissionv1.AdmissionRequest) ([]patch, error) {
	if request.Kind.Kind != "CertificateRequest" || request.Operation != admissionv1.Create {
		return nil, nil
	}
	user := request.UserInfo
	return []patch{
		{Op: "add", Path: "/spec/username", Value: user.Username},
		{Op: "add", Path: "/spec/groups", Value: user.Groups},
		{Op: "add", Path: "/spec/uid", Value: user.UID},
		{Op: "add", Path: "/spec/extra", Value: user.Extra},
	}, nil
}
