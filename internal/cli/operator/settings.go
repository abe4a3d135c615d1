package operator

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/mirrord-go/mirrord/internal/cli/clierr"
	"github.com/mirrord-go/mirrord/internal/installation"
	"github.com/mirrord-go/mirrord/internal/version"
)

// settings are the flags that say what is installed.
type settings struct {
	files          []string
	sets           []string
	namespace      string
	registry       string
	tag            string
	image          string
	agentImage     string
	pullPolicy     string
	replicas       int
	sessions       int
	roleNamespaces []string
}

func (s *settings) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&s.files, "values", nil, "read settings from this `file`, as Helm does; may be given several times")
	flags.StringArrayVar(&s.sets, "set", nil, "one `NAME=VALUE` of the settings, such as operator.logLevel=debug; may be given several times")
	flags.StringVarP(&s.namespace, "namespace", "n", "", "the `namespace` of the operator and its agents (default mirrord)")
	flags.StringVar(&s.registry, "registry", "", "`where` the images mirrord-operator and mirrord-agent are, such as registry.example.com/tools")
	flags.StringVar(&s.tag, "tag", "", "the images' `tag` (default this program's version, "+version.String()+")")
	flags.StringVar(&s.image, "image", "", "the whole `name` of the operator's image, instead of --registry")
	flags.StringVar(&s.agentImage, "agent-image", "", "the whole `name` of the agent's image, instead of --registry")
	flags.StringVar(&s.pullPolicy, "image-pull-policy", "", "Always, IfNotPresent or Never (default IfNotPresent)")
	flags.IntVar(&s.replicas, "replicas", 0, "how many replicas of the operator (default 2)")
	flags.IntVar(&s.sessions, "max-sessions-per-user", 0, "how many sessions a user may have at a time (default 50); 0 is no limit")
	flags.StringSliceVar(&s.roleNamespaces, "role-namespaces", nil, "`namespaces` that get a Role for their users, separated by commas")
}

// values are those of the files, then of --set, then of the other flags; the later ones win.
func (s *settings) values(cmd *cobra.Command) (installation.Values, error) {
	values := installation.Values{}
	for _, file := range s.files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading values: %w", err)
		}
		more, err := installation.ParseValues(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		values = values.Merge(more)
	}
	for _, setting := range s.sets {
		more, err := installation.ParseSet(setting)
		if err != nil {
			return nil, clierr.Usagef(cmd.CommandPath(), "--set: %w", err)
		}
		values = values.Merge(more)
	}
	for _, flag := range []struct {
		name  string
		value any
		keys  []string
	}{
		{"namespace", s.namespace, []string{"namespace"}},
		{"registry", s.registry, []string{"image", "registry"}},
		{"tag", s.tag, []string{"image", "tag"}},
		{"image", s.image, []string{"operator", "image"}},
		{"agent-image", s.agentImage, []string{"agent", "image"}},
		{"image-pull-policy", s.pullPolicy, []string{"image", "pullPolicy"}},
		{"replicas", s.replicas, []string{"operator", "replicas"}},
		{"max-sessions-per-user", s.sessions, []string{"operator", "maxSessionsPerUser"}},
		{"role-namespaces", list(s.roleNamespaces), []string{"roleNamespaces"}},
	} {
		if cmd.Flags().Changed(flag.name) {
			values = values.Merge(installation.Set(flag.value, flag.keys...))
		}
	}
	return values, nil
}

// list is a list as a values file has it.
func list(texts []string) []any {
	all := make([]any, len(texts))
	for i, text := range texts {
		all[i] = text
	}
	return all
}

// objects are what the flags say to install.
func (s *settings) objects(cmd *cobra.Command) (objects []installation.Object, namespace string, err error) {
	values, err := s.values(cmd)
	if err != nil {
		return nil, "", err
	}
	if objects, err = installation.Render(values, version.String()); err != nil {
		return nil, "", err
	}
	for _, object := range objects {
		if object.GetKind() == "Deployment" {
			namespace = object.GetNamespace()
		}
	}
	return objects, namespace, nil
}
