package check

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// manifests are those of the file, decoded: a field that Kubernetes does not know, or that
// is there twice, is an error.
type manifests struct {
	config   core.ConfigMap
	services []core.Service
	set      apps.StatefulSet
}

func read(t *testing.T) (m manifests) {
	t.Helper()
	text, err := os.ReadFile("../walproxy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var kind meta.TypeMeta
		if err := yaml.Unmarshal(document, &kind); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind.APIVersion + " " + kind.Kind {
		case "v1 ConfigMap":
			err = yaml.UnmarshalStrict(document, &m.config)
		case "v1 Service":
			var s core.Service
			err = yaml.UnmarshalStrict(document, &s)
			m.services = append(m.services, s)
		case "apps/v1 StatefulSet":
			err = yaml.UnmarshalStrict(document, &m.set)
		default:
			t.Errorf("of no kind that is known here: %+v", kind)
		}
		if err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
	}
	return m
}

// TestManifests: what Kubernetes would only find out when it runs it.
func TestManifests(t *testing.T) {
	m := read(t)
	pod := m.set.Spec.Template.Spec
	if len(pod.Containers) != 1 || len(m.services) != 2 || len(m.set.Spec.VolumeClaimTemplates) != 1 {
		t.Fatalf("%d containers, %d services, %d claims", len(pod.Containers), len(m.services), len(m.set.Spec.VolumeClaimTemplates))
	}
	c := pod.Containers[0]
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	labels := m.set.Spec.Template.Labels
	for key, want := range m.set.Spec.Selector.MatchLabels {
		if labels[key] != want {
			t.Errorf("the set's selector has %s=%s, its pods %q", key, want, labels[key])
		}
	}
	named := false
	for _, s := range m.services {
		named = named || s.Name == m.set.Spec.ServiceName
		for key, want := range s.Spec.Selector {
			if labels[key] != want {
				t.Errorf("service %s selects %s=%s, the pods have %q", s.Name, key, want, labels[key])
			}
		}
		for _, p := range s.Spec.Ports {
			if ports[p.TargetPort.String()] != p.Port {
				t.Errorf("service %s: port %d is no port named %s", s.Name, p.Port, p.TargetPort.String())
			}
		}
	}
	if !named {
		t.Errorf("there is no service %s", m.set.Spec.ServiceName)
	}
	for name, probe := range map[string]*core.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		want := map[string]string{"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}[name]
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != want || probe.HTTPGet.Port.String() != "admin" {
			t.Errorf("%s probe: %+v, want %s of admin", name, probe, want)
		}
	}
	mounted := map[string]string{}
	for _, v := range c.VolumeMounts {
		mounted[v.Name] = v.MountPath
	}
	volumes := []string{m.set.Spec.VolumeClaimTemplates[0].Name}
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for name := range mounted {
		if !slices.Contains(volumes, name) {
			t.Errorf("the volume %s is not there", name)
		}
	}
	text := m.config.Data["walproxy.yaml"]
	if !slices.Contains(c.Args, mounted["config"]+"/walproxy.yaml") || !strings.Contains(text, "data_dir: "+mounted["data"]+"\n") {
		t.Errorf("args %q, mounts %v, and the configuration:\n%s", c.Args, mounted, text)
	}
	// preStop, requests under way, drain_timeout (20 s in the file), and some for the rest.
	if grace := *pod.TerminationGracePeriodSeconds; grace < c.Lifecycle.PreStop.Sleep.Seconds+5+20+5 || !strings.Contains(text, "drain_timeout: 20s") {
		t.Errorf("a grace of %d s is too short", grace)
	}
	if s := c.SecurityContext; !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || !slices.Contains(s.Capabilities.Drop, "ALL") || !*pod.SecurityContext.RunAsNonRoot {
		t.Errorf("%+v", s)
	}
	claim := m.set.Spec.VolumeClaimTemplates[0].Spec.Resources.Requests[core.ResourceStorage]
	if claim.Value() < 20<<30 { // log.max_bytes 12 GiB, min_free 1 GiB, and the store
		t.Errorf("a volume of %s is too small for the log's bounds", claim.String())
	}
}
