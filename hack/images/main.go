// Command images makes the container images of mirrord out of its programs, without a container
// engine.
//
// It compiles mirrord-operator and mirrord-agent for every platform, and packs each into an image
// that holds the program and nothing else: no shell, no libraries. The same sources and version
// make the same bytes on every machine, and so the same digest. With -push it sends them to a registry, as one image
// for all platforms; with -out it writes archives that docker and ctr read.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// options are the command's flags.
type options struct {
	source    string
	version   string
	out       string
	push      string
	tag       string
	platforms []string
	insecure  bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to undo
	}
}

func parse(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("images", flag.ContinueOnError)
	fs.StringVar(&o.source, "source", "../..", "`folder` of the project")
	fs.StringVar(&o.version, "version", "dev", "version that the programs show, and without its v the images' tag unless -tag is given")
	fs.StringVar(&o.out, "out", "", "write archives into this `folder`")
	fs.StringVar(&o.push, "push", "", "send the images to this `place` of a registry, such as registry.example.com/tools")
	fs.StringVar(&o.tag, "tag", "", "the images' tag")
	platforms := fs.String("platforms", "linux/amd64,linux/arm64", "platforms, separated by commas")
	fs.BoolVar(&o.insecure, "insecure", false, "let the registry speak plain HTTP")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	o.platforms = strings.Split(*platforms, ",")
	o.push = strings.TrimSuffix(o.push, "/")
	if o.tag == "" {
		o.tag = tagOf(o.version)
	}
	switch {
	case fs.NArg() > 0:
		return nil, fmt.Errorf("unknown argument %q", fs.Arg(0))
	case o.out == "" && o.push == "":
		return nil, errors.New("-out or -push says where to")
	}
	return o, nil
}

// tagOf is the version as the programs show it, which an installation takes for the tag: v1.2.3 is 1.2.3.
func tagOf(version string) string {
	if len(version) > 1 && version[0] == 'v' && version[1] >= '0' && version[1] <= '9' {
		return version[1:]
	}
	return version
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	for _, program := range programs {
		var images []v1.Image
		for _, platform := range o.platforms {
			image, err := o.make(ctx, program, platform)
			if err != nil {
				return fmt.Errorf("%s for %s: %w", program.name, platform, err)
			}
			images = append(images, image)
			if o.out != "" {
				file := filepath.Join(o.out, program.name+"-"+strings.ReplaceAll(platform, "/", "-")+".tar")
				if err := writeArchive(file, o.reference(program), image); err != nil {
					return err
				}
				digest, err := image.Digest()
				if err != nil {
					return err
				}
				fmt.Fprintf(stdout, "%s  %s\n", digest, file)
			}
		}
		if o.push != "" {
			digest, err := push(ctx, o.reference(program), images, o.insecure)
			if err != nil {
				return err
			}
			fmt.Fprintf(stdout, "%s  %s\n", digest, o.reference(program))
		}
	}
	return nil
}

// reference is the image's full name; archives without a registry get the name that the project's
// own would have.
func (o *options) reference(p program) string {
	place := o.push
	if place == "" {
		place = "mirrord.local"
	}
	return place + "/" + p.name + ":" + o.tag
}

// make compiles a program for a platform and packs it.
func (o *options) make(ctx context.Context, p program, platform string) (v1.Image, error) {
	system, architecture, ok := strings.Cut(platform, "/")
	if !ok || system != "linux" || !slices.Contains([]string{"amd64", "arm64"}, architecture) {
		return nil, fmt.Errorf("no such platform: there are linux/amd64 and linux/arm64")
	}
	dir, err := os.MkdirTemp("", "images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, p.name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid= -X github.com/mirrord-go/mirrord/internal/version.version="+o.version, "-o", file, "./cmd/"+p.name)
	cmd.Dir = o.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+architecture, "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return build(p, architecture, o.version, file)
}
