#!/bin/sh
# Terraform as a test wants it: it says what lies in `said` beside it, keeps what it was asked, and applies what `apply.sh` does.
here=$(dirname "$0")
for word; do
    case $word in -out=*) out=${word#-out=} ;; esac
    last=$word
done
echo "$PWD: $*" >> "$here/asked"
case $1 in
version) cat "$here/said/version.json" ;;
plan)
    stat -c '%a %n' "$(dirname "$out")" "$out" >> "$here/modes"
    echo 'a plan with a sensitive value' > "$out"
    cat "$here/said/plan"
    exit "$(cat "$here/said/plan.code")"
    ;;
show)
    stat -c '%a %n' "$(dirname "$last")" "$last" >> "$here/modes"
    cat "$here/said/show.json"
    ;;
apply)
    stat -c '%a %n' "$(dirname "$last")" "$last" >> "$here/modes"
    cp "$last" "$here/applied"
    . "$here/apply.sh"
    ;;
esac
