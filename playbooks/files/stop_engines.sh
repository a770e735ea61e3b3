#!/bin/sh
# Stops the engines' units, one by one, and fails where anything is left running:
#     stop_engines.sh ['ENGINE FILE' ...]
# FILE is the engine's unit file, such as llamacpp@.service. Prints each unit that it has stopped.
set -u

# Those of the files, and those that run an engine's program though their unit's file has been deleted.
running() {
    all=$(systemctl list-units --all --full --plain --no-legend --type=service) || return
    printf '%s\n' "$all" | while read -r unit load active _; do
        case $active in inactive | failed) continue ;; esac
        for entry; do
            file=${entry#* }
            case $file in
                *@.service) case $unit in "${file%.service}"*) printf '%s\n' "$unit" ;; esac ;;
                "$unit") printf '%s\n' "$unit" ;;
            esac
        done
        [ "$load" = not-found ] || continue
        for engine in llamacpp sglang vllm tabbyapi; do
            case $unit in "$engine"*) ;; *) continue ;; esac
            pid=$(systemctl show --property=MainPID --value -- "$unit")
            if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "/opt/$engine/"; then
                printf '%s\n' "$unit"
            fi
        done
    done
}

# A process that outlives its unit stays in the unit's control group.
processes() {
    [ -z "$1" ] || cat "/sys/fs/cgroup$1/cgroup.procs" "/sys/fs/cgroup/systemd$1/cgroup.procs" 2>/dev/null
}

units=$(running "$@") || exit 1
left=
while read -r unit; do
    [ -n "$unit" ] || continue
    group=$(systemctl show --property=ControlGroup --value -- "$unit")
    systemctl stop -- "$unit"
    printf '%s\n' "$unit"
    survivors=$(processes "$group" | tr '\n' ' ')
    [ -z "$survivors" ] || left="$left $unit (processes $survivors)"
done <<END
$units
END
more=$(running "$@") || exit 1
for unit in $more; do
    left="$left $unit"
done
if [ -n "$left" ]; then
    echo "still running:$left. Nothing was deleted. Find out why with 'systemctl status', stop them, and run this again." >&2
    exit 1
fi
