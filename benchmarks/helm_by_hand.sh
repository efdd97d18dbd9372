#!/usr/bin/env bash
# The mesh as a person installs it by hand: the same charts, values of the same meaning, one after
# the other. Needs KUBECONFIG, CHARTS (a mirror folder), MANIFEST (emojivoto), helm, kubectl, openssl.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

for namespace in linkerd linkerd-viz traefik; do kubectl create namespace "$namespace" >/dev/null; done

openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -sha256 -days 3650 -out ca.crt \
	-subj "/CN=root.linkerd.cluster.local" -addext "keyUsage=critical,keyCertSign,cRLSign"
openssl ecparam -name prime256v1 -genkey -noout -out issuer.key
openssl req -new -key issuer.key -subj "/CN=identity.linkerd.cluster.local" -out issuer.csr
printf '%s\n' 'basicConstraints=critical,CA:true,pathlen:0' \
	'keyUsage=critical,keyCertSign,cRLSign' \
	'subjectAltName=DNS:identity.linkerd.cluster.local' >issuer.ext
openssl x509 -req -in issuer.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365 -sha256 \
	-extfile issuer.ext -out issuer.crt 2>/dev/null

install() { helm upgrade --install --wait --timeout 10m "$@" >/dev/null; }

install linkerd-crds "$CHARTS"/edge/linkerd-crds-2026.8.3.tgz --namespace linkerd \
	--set installGatewayAPI=true
install linkerd-control-plane "$CHARTS"/edge/linkerd-control-plane-2026.8.3.tgz --namespace linkerd \
	--set-file identityTrustAnchorsPEM=ca.crt \
	--set-file identity.issuer.tls.crtPEM=issuer.crt --set-file identity.issuer.tls.keyPEM=issuer.key
install linkerd-viz "$CHARTS"/edge/linkerd-viz-2026.8.3.tgz --namespace linkerd-viz
install traefik "$CHARTS"/traefik/traefik-41.3.0.tgz --namespace traefik

kubectl apply -f "$MANIFEST" >/dev/null
kubectl annotate namespace emojivoto linkerd.io/inject=enabled >/dev/null
kubectl rollout restart deployment --namespace emojivoto >/dev/null
for workload in emoji vote-bot voting web; do
	kubectl rollout status deployment/"$workload" --namespace emojivoto --timeout 10m >/dev/null
done
