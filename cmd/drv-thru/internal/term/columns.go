package term

import (
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// columnGap is the room between columns.
const columnGap = 2

// Columns writes rows of cells below each other. A row's last cell may be wider
// than its column, and a column of which no row has anything takes no room.
func Columns(rows ...[]string) string {
	var widths []int
	for _, row := range rows {
		row = trimRow(row)
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			if i < len(row)-1 {
				widths[i] = max(widths[i], ansi.StringWidth(cell))
			}
		}
	}
	var b strings.Builder
	for _, row := range rows {
		row = trimRow(row)
		for i, cell := range row {
			b.WriteString(cell)
			if pad := widths[i] + columnGap - ansi.StringWidth(cell); i < len(row)-1 && widths[i] > 0 {
				b.WriteString(strings.Repeat(" ", pad))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// trimRow is row without the empty cells at its end.
func trimRow(row []string) []string {
	for len(row) > 0 && row[len(row)-1] == "" {
		row = row[:len(row)-1]
	}
	return row
}
