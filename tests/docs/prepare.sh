# What comes before the documentation's commands on the host: $key and $port are set. A third model that cannot be loaded,
# so that what is said of failures has one to show; $id and $switch are those of the request that failed.
set -u
cd "$(mktemp -d)" || exit 1
base=http://127.0.0.1:$port
echo 'no weights at all' >/srv/models/broken.gguf
llm-router models add broken --backend llamacpp --service llamacpp@broken.service \
    --model-path /srv/models/broken.gguf --timeout 30 || exit 1
llm-router reload || exit 1
ask() {
    curl -sS --max-time 90 -D head -o body "$base/v1/chat/completions" -H "Authorization: Bearer $key" \
        -H 'Content-Type: application/json' \
        -d "{\"model\": \"$1\", \"max_tokens\": 4, \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}"
}
wrong() { cat head body; journalctl -u llm-router -n 40 --no-pager; echo "docs: $*"; exit 1; }
ask tiny-a && grep -q completion_tokens body || wrong 'tiny-a did not answer'
ask broken && grep -q model_unavailable body || wrong 'what cannot be loaded was loaded'
id=$(sed -n 's/^x-request-id: *//Ip' head | tr -d '\r')
sleep 1
switch=$(journalctl -u llm-router -o cat --no-pager -g "id=$id " | sed -n 's/.* switch=\([^ ]*\).*/\1/p')
test -n "$switch" || wrong "no switch is joined to the request $id"
export key id switch
failed=0
# run SECONDS PAGE COMMAND: what is followed, not ended, has 3 seconds.
run() {
    echo "\$ $3"
    timeout "$1" bash -c "$3" </dev/null
    status=$?
    [ "$status" = 0 ] || { [ "$status" = 124 ] && [ "$1" = 3 ]; } || {
        echo "=> exit status $status: $2"
        failed=1
    }
}
