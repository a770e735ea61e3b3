#compdef llm-router
# zsh completion of llm-router
# llm-router completion zsh >/usr/local/share/zsh/site-functions/_llm-router
_llm_router_names() {
    local -a names config
    local option
    for option in --config --models; do
        if [[ -n $opt_args[$option] ]]; then config+=($option ${(Q)opt_args[$option]}); fi
    done
    names=(${(f)"$(llm-router models list --names $config 2>/dev/null)"})
    compadd -a names
}
@FUNCTIONS@
if [[ $funcstack[1] == _llm-router ]]; then _llm_router "$@"; else compdef _llm_router llm-router; fi
