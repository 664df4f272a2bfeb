package usage

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed shell
var scripts embed.FS

// Shells are those that completion is for.
var Shells = []string{"bash", "zsh", "fish"}

// Script is what a shell reads to complete the program's command lines: it asks
// the program, with [WordVar].
func Script(program, shell string) (string, error) {
	text, err := scripts.ReadFile("shell/completion." + shell)
	if err != nil {
		return "", fmt.Errorf("there is no completion for the shell %q, only for %s", shell, strings.Join(Shells, ", "))
	}
	return strings.NewReplacer(
		"PROGRAM", program, "VARIABLE", WordVar(program), "FUNCTION", strings.ReplaceAll(program, "-", "_"),
	).Replace(string(text)), nil
}

// CompletionHelp explains a program's completion command.
func CompletionHelp(program string) string {
	return strings.ReplaceAll(`Prints a script for the shell. Packages of PROGRAM have it in place already. Without
one, load it where the shell starts:

  bash  source <(PROGRAM completion bash)
  zsh   source <(PROGRAM completion zsh), after compinit
  fish  PROGRAM completion fish | source`, "PROGRAM", program)
}
