#!/bin/sh
# Written by the role roundhouse.llm.open_webui. Its unit runs it in the data directory before each start:
#
#   keep-database.sh VERSION     the version that is about to start
#
# A new version changes the database, and the one before cannot read it then. So it is kept as it was, by the name of the
# version that wrote it, and nothing that is kept is written over. The three newest stay, and besides these whatever the
# version that starts has written: who goes back to it needs that.
set -eu
starts=$1
wrote=$(cat version 2>/dev/null || true)
wrote=${wrote:-unknown}
[ "$wrote" != "$starts" ] || exit 0

if [ -e webui.db ]; then
    name=$wrote count=1
    while [ -e "kept/$name" ]; do
        count=$((count + 1)) name=$wrote~$count
    done
    rm -rf kept/.new
    mkdir -p kept/.new
    for file in webui.db webui.db-wal; do
        [ ! -e $file ] || cp -p $file kept/.new/
    done
    sync kept/.new/*
    mv kept/.new "kept/$name"
    echo "$starts starts with the database of $wrote, which is kept in $PWD/kept/$name"

    others=0
    # shellcheck disable=SC2012 # the names are versions, and only ls sorts by time
    ls -t kept | while read -r name; do
        case $name in "$starts" | "$starts"~*) continue ;; esac
        others=$((others + 1))
        [ $others -le 3 ] || rm -rf "kept/$name"
    done
fi
echo "$starts" >version.new
mv version.new version
