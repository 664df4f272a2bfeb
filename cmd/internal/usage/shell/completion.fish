# fish completion for PROGRAM: PROGRAM completion fish | source
function __FUNCTION
    set -l before (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    set -l lines (env VARIABLE=(count $before) $before $current 2>/dev/null)
    string collect -- $lines[2..-1]
end
complete --command PROGRAM --no-files --keep-order --arguments '(__FUNCTION)'
