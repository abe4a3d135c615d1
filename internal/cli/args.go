package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// joinOptionalValues makes "-f FILE" work for flags whose value is optional, for which pflag
// knows only "-f=FILE": the word after such a flag is its value unless it starts with a
// dash or is missing. Words after the first argument are left alone, since they may belong
// to the process that exec runs.
func joinOptionalValues(root *cobra.Command, args []string) []string {
	cmd, rest, err := root.Find(args)
	if err != nil || cmd == root {
		return args
	}
	joined := strings.Fields(cmd.CommandPath())[1:]
	for len(rest) > 0 {
		word := rest[0]
		if word == "--" || word == "-" || !strings.HasPrefix(word, "-") {
			break
		}
		rest = rest[1:]
		joined = append(joined, word)
		flag := lastFlag(cmd, word)
		if flag == nil || len(rest) == 0 {
			continue
		}
		isValue := rest[0] == "-" || !strings.HasPrefix(rest[0], "-")
		switch {
		case flag.NoOptDefVal == "": // takes the next word, whatever it is
			joined, rest = append(joined, rest[0]), rest[1:]
		case flag.Value.Type() == "string" && isValue:
			joined[len(joined)-1], rest = word+"="+rest[0], rest[1:]
		}
	}
	return append(joined, rest...)
}

// lastFlag returns the flag at the end of a word that has no value in the same word; nil
// when there is none.
func lastFlag(cmd *cobra.Command, word string) *pflag.Flag {
	if name, long := strings.CutPrefix(word, "--"); long {
		if strings.Contains(name, "=") {
			return nil
		}
		return cmd.Flag(name)
	}
	for i := 1; i < len(word); i++ {
		flag := cmd.Flags().ShorthandLookup(word[i : i+1])
		if flag == nil {
			return nil
		}
		if last := i == len(word)-1; last {
			return flag
		}
		if flag.NoOptDefVal == "" || word[i+1] == '=' {
			return nil // the rest of the word is the value
		}
	}
	return nil
}
