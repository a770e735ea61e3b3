#!/usr/bin/env bash
# Makes this machine a server with one OpenAI-compatible endpoint for all its models:
#
#   ./install.sh                        asks, writes the answers to /etc/roundhouse, and does it
#   ./install.sh                        again: the same with what is in /etc/roundhouse now
#   ./install.sh --check                shows what would be done, and changes nothing
#   ./install.sh --answers FILE         asks nothing: lines of `question = answer`
#   ./install.sh -- --tags switch -e llm_model=NAME     what follows -- is ansible-playbook's
#
# Questions; each is an option too, as in --port 8002:
#
#   adopt               yes: the units of engines that this machine has stay as they are, and the router is put in front of them
#                       (docs/adopt.md); no: they are ignored. Asked only where there are such units. Without an answer and
#                       without a terminal it is yes
#   engines             to install, with commas between them; the last line of --help lists them. With adopt = yes it may be empty
#   models-dir          where the models are: an absolute path
#   models-file         a models.yml to take; without it, one is written: the models of the units that are adopted, each GGUF file
#                       (llamacpp), and each folder that one of the engines serves (the first of them that does)
#   import              another router's configuration to make models.yml of: a file with MODELS = {…}, or llama-swap's
#   listen              address: 127.0.0.1 for this machine alone, 0.0.0.0 for the network
#   port                8002, for example
#   key                 generate (it is shown once), file:PATH, env:VARIABLE, or none (127.0.0.1 only)
#   llamacpp-archive    path or URL of a llama.cpp build of your own; without it, the role builds or installs one
#                       (docs/engines/llamacpp.md)
#   llamacpp-checksum   sha256:… of it
#
# Further options:
#
#   --directory DIR     instead of /etc/roundhouse
#   --python PYTHON     to run Ansible with: 3.10 or newer; without it, one is looked for
#   --wheelhouse DIR    wheels of requirements/ansible.lock, for a machine that reaches no package index
#
# Exit status: 0 done; 1 an answer is wrong or something is missing, stderr says what; 2 a check or a task of the playbook
# failed, the output says which; 3 no model is configured. Run it again after the repair: it goes on from there.
set -euo pipefail
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
directory=/etc/roundhouse
root=/opt/roundhouse
lock=$here/requirements/ansible.lock
check=no environment='' wheelhouse='' python='' scratch='' new_key=''
passed=()
questions=(engines models-dir models-file listen port key llamacpp-archive llamacpp-checksum adopt import)
declare -A answers=()
units='' # of engines that others have set up here, a line each

say() { printf '%s\n' "install.sh: $*"; }
fail() { printf '%s\n' "install.sh: $*" >&2; exit 1; }
leave() { if [ -n "$scratch" ]; then rm -rf "$scratch"; fi; }
trap leave EXIT

# The engines that this version has a role for.
engines() {
    local engine
    for engine in llamacpp sglang vllm tabbyapi; do
        if [ -d "$here/roles/$engine" ]; then echo "$engine"; fi
    done
}

usage() {
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "${BASH_SOURCE[0]}"
    echo
    echo "Engines: $(engines | paste -sd, -)"
}

# answer QUESTION VALUE
answer() {
    local known
    for known in "${questions[@]}"; do
        if [ "$known" = "$1" ]; then answers[$1]=$2; return; fi
    done
    fail "'$1' is not a question or an option; see --help"
}

# read_answers FILE: `question = answer` lines; nothing in them is run.
read_answers() {
    local line number=0
    [ -r "$1" ] || fail "$1 cannot be read"
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        if [[ $line =~ ^[[:space:]]*(#|$) ]]; then continue; fi
        [[ $line =~ ^[[:space:]]*([a-z-]+)[[:space:]]*=[[:space:]]*(.*[^[:space:]])?[[:space:]]*$ ]] ||
            fail "$1:$number: is not an answer; write it like \`port = 8002\`"
        answer "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    done <"$1"
}

# ask QUESTION TEXT DEFAULT: unless it is answered. A person is asked again after a wrong answer.
ask() {
    if [ -n "${answers[$1]+given}" ]; then return; fi
    local given problem
    while :; do
        read -rp "$2 [$3]: " given || fail "no answer"
        problem=$(problem_of "$1" "${given:-$3}")
        if [ -z "$problem" ]; then break; fi
        printf '%s\n' "install.sh: $1: $problem" >&2
    done
    answers[$1]=${given:-$3}
}

# A Python that reads the machine: 3.8 will do, and what runs Ansible may have to be installed first.
reading_python() {
    local candidate
    for candidate in $python python3 /usr/bin/python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -I -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1; then echo "$candidate"; return; fi
    done
    fail 'Python 3.10 or newer is needed: install one and name it with --python'
}

# reading PROGRAM ARGUMENT…: a program of the role that only reads, before anything is installed.
reading() {
    local found
    found=$(reading_python) || exit 1
    "$found" -I -B "$here/roles/llm_router/files/$1" "${@:2}"
}

# Whether the models are not to be looked for.
given_models() { [ -n "${answers[models-file]:-}${answers[import]:-}" ]; }
adopts() { [ -n "$units" ] && [ "${answers[adopt]:-}" = yes ]; }

ask_adopt() {
    units=$(reading first_models.py units "${answers[models-dir]:-/srv/models}") || fail 'the units of this machine could not be read'
    if [ -z "$units" ]; then return; fi
    say 'this machine has units of engines:'
    printf '%s\n' "$units" | sed 's/^/    /'
    if [ -t 0 ]; then
        ask adopt 'Leave them as they are and put the router in front of them (yes, no)' yes
    elif [ -z "${answers[adopt]+given}" ]; then
        answers[adopt]=yes
        say 'adopt is not answered, so they stay as they are and the router is put in front of them (--adopt no ignores them)'
    fi
}

ask_all() {
    local question missing=()
    ask_adopt
    for question in engines models-dir listen port key; do
        if [ "$question" = engines ] && given_models; then continue; fi
        if [ "$question" = engines ] && adopts; then continue; fi
        if [ -z "${answers[$question]+given}" ]; then missing+=("$question"); fi
    done
    if [ ${#missing[@]} -gt 0 ] && [ ! -t 0 ]; then
        fail "there is no terminal to ask on; give ${missing[*]} as options or with --answers FILE (see --help)"
    fi
    if adopts; then
        if [ -t 0 ]; then ask engines "Engines to install beside them ($(engines | paste -sd, -); nothing: none)" ''; fi
    elif ! given_models; then
        ask engines "Engines to install, with commas between them ($(engines | paste -sd, -))" llamacpp
    fi
    ask models-dir 'Where are the models' /srv/models
    ask listen 'Address to listen on (0.0.0.0: the network)' 127.0.0.1
    if [ -t 0 ] && [ -z "${answers[port]+given}" ]; then
        local holder
        holder=$(reading port_holder.py "${answers[listen]}" 8002 llm-router.service)
        if [ -n "$holder" ]; then say "port 8002 is in use: $holder, or choose another port"; fi
    fi
    ask port 'Port' 8002
    ask key 'Key of the API (generate, file:PATH, env:VARIABLE, none)' generate
    if [ -t 0 ] && { given_models || [[ ,${answers[engines]:-}, == *,llamacpp,* ]]; }; then
        ask llamacpp-archive 'A llama.cpp build of your own, path or URL (nothing: the role builds or installs one)' ''
        if [ -n "${answers[llamacpp-archive]}" ]; then ask llamacpp-checksum 'Its checksum, sha256:...' ''; fi
    fi
}

is_loopback() { [[ ${answers[listen]} =~ ^(127\.[0-9.]+|::1|localhost)$ ]]; }

# problem_of QUESTION ANSWER: what is wrong with the answer, and how to write it; nothing if it is right.
problem_of() {
    local engine
    case $1 in
        adopt) [[ $2 =~ ^(yes|no)$ ]] || echo "'$2' is neither yes nor no" ;;
        engines)
            for engine in ${2//,/ }; do
                engines | grep -qx -- "$engine" || { echo "'$engine' is not an engine; choose from $(engines | paste -sd, -)"; return; }
            done ;;
        models-dir) [[ $2 == /?* ]] || echo "'$2' is not an absolute path" ;;
        listen) [[ $2 =~ ^[0-9A-Za-z.:-]+$ ]] || echo "'$2' is not an address" ;;
        port)
            if ! [[ $2 =~ ^[0-9]{1,5}$ ]] || (( 10#$2 < 1 || 10#$2 > 65535 )); then echo "'$2' is not a port number (1-65535)"; fi ;;
        key)
            if [ "$2" = none ] && ! is_loopback; then
                echo "${answers[listen]} can be reached from other machines, so a key is required; answer generate"
            elif ! [[ $2 =~ ^(generate|none|file:.+|env:.+)$ ]]; then
                echo 'is not generate, file:PATH, env:VARIABLE or none'
            fi ;;
    esac
}

check_answers() {
    local question problem
    answers[engines]=${answers[engines]:-}
    answers[adopt]=${answers[adopt]:-no}
    for question in adopt engines models-dir listen port key; do
        problem=$(problem_of "$question" "${answers[$question]}")
        if [ -n "$problem" ]; then fail "$question: $problem"; fi
    done
    if [ -n "${answers[models-file]:-}" ] && [ ! -r "${answers[models-file]}" ]; then
        fail "models-file: ${answers[models-file]} cannot be read"
    fi
    if [ -n "${answers[import]:-}" ] && [ ! -r "${answers[import]}" ]; then fail "import: ${answers[import]} cannot be read"; fi
    if [ -n "${answers[models-file]:-}" ] && [ -n "${answers[import]:-}" ]; then
        fail 'import: models-file is given too; keep the one that is meant'
    fi
}

# The key's sha256: the key itself is not written anywhere.
key_digest() {
    local key
    case ${answers[key]} in
        generate) key=$new_key ;;
        file:*) key=$(cat -- "${answers[key]#file:}") || fail "key: ${answers[key]#file:} cannot be read" ;;
        env:*) key=$(printenv -- "${answers[key]#env:}") || fail "key: there is no variable ${answers[key]#env:}" ;;
    esac
    [ ${#key} -ge 16 ] || fail 'key: has fewer than 16 characters; use a longer one'
    printf %s "$key" | sha256sum | cut -d' ' -f1
}

# A text as YAML.
quoted() { printf "'%s'" "${1//\'/\'\'}"; }

inventory_yml() {
    cat <<END
---
# Written once by install.sh; yours from now on.
llm_servers:
  hosts:
    $(uname -n):
      ansible_connection: local
      ansible_become: false # install.sh is root already, and there may be no sudo
      ansible_python_interpreter: /usr/bin/python3
END
}

group_vars_yml() {
    cat <<END
---
# Written once by install.sh; yours from now on. Every variable: roles/*/meta/argument_specs.yml.
llm_router_models_file: '{{ inventory_dir }}/models.yml'
models_dir: $(quoted "${answers[models-dir]}")

llm_router_host: $(quoted "${answers[listen]}")
llm_router_port: $((10#${answers[port]}))
END
    if [ "${answers[adopt]}" = yes ]; then printf 'llm_router_adopt: true # units of engines stay as they are\n'; fi
    if [ "${answers[key]}" != none ]; then
        local digest
        digest=$(key_digest)
        printf 'llm_router_api_keys:\n  - name: install\n    sha256: %s\n' "$digest"
        printf '    scopes: [use, switch, admin]\n'
    fi
    if [ -n "${answers[llamacpp-archive]:-}" ]; then
        printf '\nllamacpp_source: archive\nllamacpp_archive: %s\n' "$(quoted "$(absolute "${answers[llamacpp-archive]}")")"
        printf 'llamacpp_checksum: %s\n' "$(quoted "${answers[llamacpp-checksum]:-}")"
    fi
    if [ -n "$wheelhouse" ]; then
        printf '\nllm_router_wheelhouse: %s\n' "$(quoted "$wheelhouse")"
        printf 'models_wheelhouse: %s\n' "$(quoted "$wheelhouse")"
    fi
}

absolute() { case $1 in http*://*) echo "$1" ;; *) realpath -m -- "$1" ;; esac; }

models_yml() {
    if [ -n "${answers[models-file]:-}" ]; then
        cat -- "${answers[models-file]}"
        return
    fi
    if [ -n "${answers[import]:-}" ]; then
        # -I: no module comes from the working directory, which may be the folder of the user whose file is imported
        "$environment/bin/python" -I -B -c '
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
runpy.run_module("llm_router", run_name="__main__", alter_sys=True)' "$here/roles/llm_router/files" import "${answers[import]}" ||
            fail "import: no valid models.yml can be made of ${answers[import]}"
        return
    fi
    local adopt=()
    if [ "${answers[adopt]}" = yes ]; then adopt=(adopt); fi
    reading first_models.py models "${answers[models-dir]}" "${answers[engines]}" "${adopt[@]}"
}

# write PATH FUNCTION MODE: what FUNCTION says, in one step.
write() {
    mkdir -p -- "$(dirname -- "$1")"
    (umask 077 && "$2" >"$1.new")
    chmod "$3" "$1.new"
    mv -f -- "$1.new" "$1"
}

# The answers are asked once: from then on the files are the truth. inventory.yml comes last: it says that all are there.
configure() {
    if [ -e "$directory/inventory.yml" ]; then
        if [ ${#answers[@]} -gt 0 ]; then
            say "using the answers in $directory, with your changes to them; edit them there, answers given now are not used"
        fi
        return
    fi
    ask_all
    check_answers
    new_key=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')
    if [ "${answers[key]}" != none ]; then key_digest >/dev/null; fi
    if [ -n "${answers[import]:-}" ]; then ansible; fi # what reads it needs the packages beside Ansible
    local target=$directory
    if [ "$check" = yes ]; then target=$scratch/configuration; fi
    if [ ! -e "$directory/models.yml" ]; then
        write "$target/models.yml" models_yml 0644
    elif [ "$check" = yes ]; then
        mkdir -p "$target" && cp -- "$directory/models.yml" "$target/models.yml"
    fi
    write "$target/group_vars/llm_servers.yml" group_vars_yml 0600
    write "$target/inventory.yml" inventory_yml 0644
    if [ "$check" = yes ]; then
        local file
        for file in models.yml group_vars/llm_servers.yml inventory.yml; do
            say "would write $directory/$file:"
            sed 's/^/    /' "$target/$file"
        done
        directory=$target
        return
    fi
    say "your answers are in $directory: models.yml, group_vars/llm_servers.yml, inventory.yml"
    if [ "${answers[key]}" = generate ]; then
        printf '\n    key of the API, shown this once: %s\n\n' "$new_key"
    fi
}

runs() { "$1" -I -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${python:-python3.13 python3.12 python3.14 python3 python3.11 python3.10 /usr/bin/python3}; do
        if runs "$candidate"; then
            "$candidate" -I -c 'import os, sys; print(os.path.realpath(sys.executable))'
            return
        fi
    done
    return 1
}

# Ansible, in an environment that is named by what it is made of.
ansible() {
    local found id parent=$root options=()
    if [ -n "$environment" ]; then return; fi
    found=$(find_python) ||
        fail "Ansible needs Python 3.10 or newer${python:+, and $python is not one}: install one and name it with --python"
    id=$( { cat "$lock"; "$found" -VV; echo "$found"; } | sha256sum | cut -c1-12)
    environment=$root/ansible-$id
    if [ -e "$environment/.complete" ]; then return; fi
    if [ "$check" = yes ]; then
        say "would install Ansible into $environment"
        parent=$scratch environment=$scratch/ansible-$id
    fi
    if ! "$found" -I -c 'import ensurepip, venv' 2>/dev/null; then
        if [ "$check" = yes ]; then
            say 'would install the package python3-venv first; without it there is no Ansible to say more'
            exit 0
        fi
        say 'installing the package python3-venv'
        export DEBIAN_FRONTEND=noninteractive
        # package lists that are old or missing are fetched
        apt-get -qq install --no-install-recommends python3-venv </dev/null >/dev/null 2>&1 ||
            { apt-get -qq update && apt-get -qq install --no-install-recommends python3-venv; } </dev/null >/dev/null ||
            fail 'apt-get could not install python3-venv: install it, and run this again'
    fi
    say "installing Ansible into $environment"
    mkdir -p "$parent"
    rm -rf "$environment" # half made
    if [ -n "$wheelhouse" ]; then options=(--no-index --find-links "$wheelhouse"); fi
    "$found" -I -m venv "$environment"
    "$environment/bin/python" -I -m pip install --quiet --disable-pip-version-check --require-hashes \
        --only-binary :all: "${options[@]}" -r "$lock" ||
        fail 'pip could not install Ansible: is the package index reachable (a mirror: PIP_INDEX_URL; none: --wheelhouse)?'
    : >"$environment/.complete"
    if [ "$check" = no ]; then
        find "$root" -maxdepth 1 -name 'ansible-*' ! -path "$environment" -exec rm -rf {} +
    fi
}

has_models() {
    "$environment/bin/python" -I -c '
import sys
from ruamel.yaml import YAML
try:
    read = YAML(typ="safe").load(open(sys.argv[1], encoding="utf-8"))
except Exception:
    sys.exit(0)  # site.yml says what is wrong with it, and where
sys.exit(isinstance(read, dict) and "models" in read and not read["models"])' "$1"
}

provision() {
    local options=(--inventory "$directory/inventory.yml") parent
    if [ "$check" = yes ]; then options+=(--check --diff); fi
    local variable
    for variable in ${!ANSIBLE_@}; do unset "$variable"; done # this machine's own settings stay out of it
    case ${LC_ALL:-${LANG:-}} in *UTF-8 | *utf8) ;; *) export LC_ALL=C.UTF-8 ;; esac
    # installed by ansible-galaxy it lies in …/ansible_collections/roundhouse/llm; a checkout has a link of that name
    parent=$(dirname -- "$(dirname -- "$here")")
    if [ "$(basename -- "$parent")" != ansible_collections ]; then parent=$here/playbooks/collections/ansible_collections; fi
    export ANSIBLE_COLLECTIONS_PATH=${parent%/*} ANSIBLE_LOCALHOST_WARNING=False
    cd -- "$directory"
    "$environment/bin/ansible-playbook" "${options[@]}" "$here/playbooks/site.yml" "${passed[@]}"
}

while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --check) check=yes ;;
        --) shift; passed=("$@"); break ;;
        --*)
            [ $# -ge 2 ] || fail "$1 needs a value; see --help"
            case $1 in
                --answers) read_answers "$2" ;;
                --directory) directory=$(realpath -m -- "$2") ;;
                --python) python=$2 ;;
                --wheelhouse) wheelhouse=$(realpath -- "$2") || fail "--wheelhouse: $2 does not exist" ;;
                *) answer "${1#--}" "$2" ;;
            esac
            shift ;;
        *) fail "$1 is not an option; see --help" ;;
    esac
    shift
done

[ -r "$lock" ] || fail "$lock is not there: run install.sh where it lies in the checkout or the collection"
[ "$(id -u)" = 0 ] || fail 'it installs services, so it has to be root: sudo ./install.sh'
scratch=$(mktemp -d)
exec 9<"$lock"
flock -w 20 9 || fail 'another install.sh runs at this moment'
configure
ansible
has_models "$directory/models.yml" || {
    say "no model is configured: name your models in $directory/models.yml, and run this again"
    exit 3
}
provision
if [ "$check" = no ]; then say 'done; what is loaded, and what is wrong: llm-router status'; fi
