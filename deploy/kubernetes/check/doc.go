// Package check reads the manifests as Kubernetes' own types, strictly. It is a module of
// its own, so that these types are no dependency of walproxy's.
package check
