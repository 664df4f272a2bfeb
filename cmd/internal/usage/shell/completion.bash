# bash completion for PROGRAM: source <(PROGRAM completion bash)
_FUNCTION() {
	local -a words=("${COMP_WORDS[@]}")
	local cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]} line kind=
	# With bash-completion, words are not broken at = and :, which belong to them.
	if declare -F _get_comp_words_by_ref >/dev/null; then
		_get_comp_words_by_ref -n =: words cword cur
	fi
	COMPREPLY=()
	while IFS= read -r line; do
		if [[ -z $kind ]]; then
			kind=$line
			continue
		fi
		COMPREPLY+=("${line%%$'\t'*}")
	done < <(VARIABLE=$cword "${words[@]}" 2>/dev/null)
	case $kind in
	filenames) compopt -o filenames -o nospace 2>/dev/null ;;
	attrs) compopt -o nospace 2>/dev/null ;;
	esac
	# Only what follows the last place where readline breaks the word is replaced.
	local break
	for break in = :; do
		if [[ $cur == *$break* && $COMP_WORDBREAKS == *$break* ]]; then
			COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*"$break"}"}"}")
		fi
	done
	# A file that is the only one is done; a directory goes on.
	if [[ $kind == filenames && ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != */ ]]; then
		compopt +o nospace 2>/dev/null
	fi
}
complete -F _FUNCTION PROGRAM
