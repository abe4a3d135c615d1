package program

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Container says, if it is so, that a command starts containers: a service that runs already starts them, so
// they are not below the command, and not part of the session.
func Container(args []string) (warning string, is bool) {
	if len(args) == 0 {
		return "", false
	}
	engine := filepath.Base(args[0])
	if !slices.Contains([]string{"docker", "podman", "nerdctl", "docker-compose", "podman-compose"}, engine) {
		return "", false
	}
	words := subcommands(args[1:])
	starts := []string{"run", "start", "create", "exec", "up", "restart"}
	if !slices.ContainsFunc(words, func(word string) bool { return slices.Contains(starts, word) }) {
		return "", false
	}
	return fmt.Sprintf("containers run outside of the session: %s has the target's network, but not what runs in the containers that it starts. "+
		"Run the program itself, or run mirrord inside of the container", engine), true
}

// ContainerService says, if it is so, that a Unix socket is that of a service which starts containers: they are
// not below whoever asks it for them.
func ContainerService(socket string) (warning string, is bool) {
	services := []string{"docker.sock", "docker.raw.sock", "podman.sock", "containerd.sock", "buildkitd.sock"}
	if !slices.Contains(services, filepath.Base(socket)) {
		return "", false
	}
	return fmt.Sprintf("containers run outside of the session: a program asks %s, and what runs in containers that it gets there does not have the target's network",
		socket), true
}

// subcommands are the first words of a command line: the command, and that of compose and container.
func subcommands(args []string) []string {
	withValue := []string{"-H", "--host", "-c", "--context", "--config", "-l", "--log-level", "-f", "--file", "-p", "--project-name", "-n", "--namespace"}
	var words []string
	for i := 0; i < len(args); i++ {
		switch {
		case slices.Contains(withValue, args[i]):
			i++
		case strings.HasPrefix(args[i], "-"):
		default:
			words = append(words, args[i])
			if args[i] != "compose" && args[i] != "container" && args[i] != "pod" {
				return words
			}
		}
	}
	return words
}
