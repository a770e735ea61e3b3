# bash completion of llm-router (bash 3.2 and newer)
# llm-router completion bash >/etc/bash_completion.d/llm-router
_llm_router() {
    # bash splits at the colons and at-signs that are in models' names, so split anew, at blanks
    local line=${COMP_LINE:0:COMP_POINT} all=() current= previous= path= place=0 config=() i word
    read -ra all <<<"$line"
    if [[ $line == *[[:space:]] ]]; then all+=(''); fi
    current=${all[${#all[@]} - 1]}
    if (( ${#all[@]} > 1 )); then previous=${all[${#all[@]} - 2]}; fi
    for (( i = 1; i < ${#all[@]} - 1; i++ )); do
        word=${all[i]}
        case $word in
        --config|--models) config+=("$word" "${all[i + 1]}") ;;
        esac
        case $word in
        @TAKING@) (( i++ )) ;;
        -*) ;;
        *)
            case $path in
            @GROUPS@) path=${path:+$path }$word place=0 ;;
            *) (( place++ )) ;;
            esac ;;
        esac
    done

    local words= source=
    case "$path $previous" in
@VALUES@
    *)
        if [[ $current == -* ]]; then
            case $path in
@OPTIONS@
            esac
        else
            case "$path $place" in
@PLACES@
            esac
        fi ;;
    esac

    COMPREPLY=()
    local IFS=$'\n'
    case $source in
    files)
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "$current"))
        return ;;
    models) words=$("${all[0]}" models list --names "${config[@]}" 2>/dev/null) ;;
    *) words=${words// /$IFS} ;;
    esac
    # what bash takes for words of their own must not come again
    local breaks=${COMP_WORDBREAKS//[^@:=]/} prefix=
    if [[ -n $breaks ]]; then prefix=${current%"${current##*[$breaks]}"}; fi
    while read -r word; do
        if [[ -n $word && $word == "$current"* ]]; then COMPREPLY+=("${word#"$prefix"}"); fi
    done <<<"$words"
}
complete -F _llm_router llm-router
