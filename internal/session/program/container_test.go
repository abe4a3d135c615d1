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
