# fish completion of llm-router
# llm-router completion fish >/etc/fish/completions/llm-router.fish
function __llm_router_at --description 'Whether the command before the cursor is this one'
    set -l path
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if contains -- $word @TAKING@
            set skip 1
        else if string match -q -- '-*' $word
            continue
        else if test (count $path) = 0; or contains -- "$path" @GROUPS@
            set -a path $word
        end
    end
    test "$path" = "$argv"
end
function __llm_router_names --description 'The models of the models.yml that is meant'
    set -l config
    set -l words (commandline -opc)
    for option in --config --models
        if set -l i (contains -i -- $option $words)
            set -a config $option $words[(math $i + 1)]
        end
    end
    llm-router models list --names $config 2>/dev/null
end
complete -c llm-router -f
@LINES@
