package command

import (
	"io"
	"strings"
	"text/tabwriter"
)

// Table is text in columns. The zero value is an empty table.
type Table struct{ text strings.Builder }

// Row adds a line of cells, which must hold neither tabs nor newlines.
func (t *Table) Row(cells ...string) {
	t.text.WriteString(strings.Join(cells, "\t"))
	t.text.WriteByte('\n')
}

// Print writes the table with its columns aligned.
func (t *Table) Print(w io.Writer) error {
	aligned := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if _, err := io.WriteString(aligned, t.text.String()); err != nil {
		return err
	}
	return aligned.Flush()
}
