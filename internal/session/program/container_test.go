package program

import (
	"strings"
	"testing"
)

func TestContainer(t *testing.T) {
	for line, want := range map[string]bool{
		"docker run --rm alpine":                       true,
		"/usr/bin/docker --context other run alpine":   true,
		"docker -H tcp://10.0.0.1 container start web": true,
		"docker compose -f a.yaml up":                  true,
		"docker-compose up -d":                         true,
		"podman run x":                                 true,
		"nerdctl -n dev run x":                         true,
		"docker build . -t run":                        false,
		"docker logs run":                              false,
		"docker ps":                                    false,
		"docker":                                       false,
		"./docker-server run":                          false,
		"":                                             false,
	} {
		warning, is := Container(strings.Fields(line))
		if is != want || is && !strings.HasPrefix(warning, "containers run outside of the session") {
			t.Errorf("%q: %v, %q", line, is, warning)
		}
	}
}

func TestContainerService(t *testing.T) {
	for socket, want := range map[string]bool{
		"/var/run/docker.sock":               true,
		"/run/user/1000/podman/podman.sock":  true,
		"/home/u/.docker/run/docker.sock":    true,
		"/run/containerd/containerd.sock":    true,
		"/var/run/docker.sock/x":             false,
		"/var/run/dbus/system_bus_socket":    false,
		"/run/postgresql/.s.PGSQL.5432":      false,
		"@docker":                            false,
		"/srv/shop/notdocker.sock":           false,
		"/run/user/1000/gnupg/S.gpg-agent":   false,
		"/tmp/.X11-unix/X0":                  false,
		"/run/user/1000/wayland-0":           false,
		"/var/run/docker/libnetwork/a1.sock": false,
	} {
		warning, is := ContainerService(socket)
		if is != want || is && !(strings.HasPrefix(warning, "containers run outside of the session") && strings.Contains(warning, socket)) {
			t.Errorf("%q: %v, %q", socket, is, warning)
		}
	}
}
