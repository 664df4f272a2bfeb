# bash completion for PROGRAM: source <(PROGRAM completion bash)
_FUNCTION() {
	local rest=${COMP_LINE:0:COMP_POINT} cur= typed= line kind= i n=-1
	local -a words=()
	# Readline breaks words at = and :, which belong to them: what stands together
	# in the line is one. It leaves quotes, which are the shell's.
	for ((i = 0; i <= COMP_CWORD; i++)); do
		if [[ $i -eq 0 || $rest == [[:space:]]* ]]; then
			rest=${rest#"${rest%%[![:space:]]*}"} words[++n]=
		fi
		[[ $i -lt COMP_CWORD ]] && typed=${COMP_WORDS[i]} || typed=$rest
		words[n]+=$typed rest=${rest#"$typed"}
	done
	for ((i = 0; i <= n; i++)); do
		cur=${words[i]}
		case $cur in
		\'*) cur=${cur#\'} cur=${cur%\'} ;;
		\"*) cur=${cur#\"} cur=${cur%\"} ;;
		esac
		words[i]=$cur
	done
	COMPREPLY=()
	while IFS= read -r line; do
		if [[ -z $kind ]]; then
			kind=$line
			continue
		fi
		COMPREPLY+=("${line%%$'\t'*}")
	done < <(VARIABLE=$n "${words[@]}" 2>/dev/null)
	case $kind in
	filenames) compopt -o filenames -o nospace 2>/dev/null ;;
	attrs) compopt -o nospace 2>/dev/null ;;
	esac
	# Only what follows the last place where readline breaks the word is replaced; it
	# breaks none in quotes.
	local break
	for break in = :; do
		if [[ $typed != [\'\"]* && $cur == *$break* && $COMP_WORDBREAKS == *$break* ]]; then
			COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*"$break"}"}"}")
		fi
	done
	# A file that is the only one is done; a directory goes on.
	if [[ $kind == filenames && ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != */ ]]; then
		compopt +o nospace 2>/dev/null
	fi
}
complete -F _FUNCTION PROGRAM
