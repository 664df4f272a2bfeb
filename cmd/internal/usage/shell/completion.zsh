#compdef PROGRAM
# zsh completion for PROGRAM: source <(PROGRAM completion zsh)
_FUNCTION() {
	local -a lines values shown options
	local line value text
	lines=("${(@f)$(VARIABLE=$((CURRENT - 1)) "${(@Q)words}" 2>/dev/null)}")
	case ${lines[1]} in
	filenames) options=(-f -S '') ;;
	attrs) options=(-S '') ;;
	esac
	for line in "${(@)lines[2,-1]}"; do
		value=${line%%$'\t'*}
		text=${line#*$'\t'}
		[[ -n $value ]] || continue
		values+=("$value")
		shown+=("$value${text:+  -- $text}")
	done
	(( ${#values} )) || return 1
	if [[ ${lines[1]} == filenames ]]; then
		compadd "${(@)options}" -a values
	else
		compadd -l "${(@)options}" -d shown -a values
	fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
	_FUNCTION "$@"
else
	compdef _FUNCTION PROGRAM
fi
