package configflags

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// Arguments returns the arguments of root with the value that -f has when none is given, so
// that "-f" may stand alone and "-f FILE" may have a space. (A flag with an optional value
// can have no space in cobra.) It looks no further than the first argument that is no flag,
// where the command line of the local process may start.
func Arguments(root *cobra.Command, args []string) []string {
	cmd, rest, err := root.Find(args)
	if err != nil || cmd.Flag(fileFlag) == nil {
		return args
	}
	words := strings.Fields(cmd.CommandPath())[1:]
	return slices.Concat(words, fillFile(cmd, slices.Clone(rest)))
}

func fillFile(cmd *cobra.Command, args []string) []string {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" || arg == "-" || !strings.HasPrefix(arg, "-") {
			break
		}
		last := i+1 == len(args)
		if (arg == "-f" || arg == "--"+fileFlag) && (last || strings.HasPrefix(args[i+1], "-") && args[i+1] != "-") {
			args[i] = "--" + fileFlag + "=" + DefaultFile
			continue
		}
		if takesNext(cmd, arg) {
			i++
		}
	}
	return args
}

// takesNext tells whether the value of the flag is the argument after it.
func takesNext(cmd *cobra.Command, arg string) bool {
	if name, long := strings.CutPrefix(arg, "--"); long {
		f := cmd.Flag(name)
		return f != nil && f.NoOptDefVal == ""
	}
	for i, letter := range arg[1:] {
		f := cmd.Flags().ShorthandLookup(string(letter))
		if f == nil {
			f = cmd.InheritedFlags().ShorthandLookup(string(letter))
		}
		if f == nil {
			return false
		}
		if f.NoOptDefVal == "" {
			return i+2 == len(arg) // otherwise the rest is the value
		}
	}
	return false
}
