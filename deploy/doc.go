// Package deploy has what runs walproxy elsewhere: a unit for systemd, packages, an image,
// manifests for Kubernetes, a dashboard and alerts. Here is only what tests them.
package deploy
