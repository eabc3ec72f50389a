# report.sh - what a check found, as it finds it: OUT/summary.json is replaced after every step, so that
# whatever ends the check, the file says what is known until then and which step was under way.
#
# A step's verdict is "passed", "failed", "not run" (with the reason), "not finished" (time was over,
# nothing wrong until then) or "running" (the check ended within it). The whole is "passed" only where every
# step passed; "failed" where one failed; else "incomplete".
# shellcheck shell=bash
# shellcheck disable=SC2154 # check.sh's variables

out='' deadline=0 scale=1 begun=$SECONDS ended=false
step='' step_begin=0
declare -a step_names=() step_entries=()
declare -A facts=()
rc=0 took=0 cut=false limit=0 child=0

say() { printf 'gpu-check: %s\n' "$*" >&2; }

# A JSON string of one line of text.
quoted() {
    local LC_ALL=C text=${1:0:400}
    text=${text//[^ -~]/ }
    text=${text//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

# Lines of standard input as an array of strings, the first 40 of them.
quoted_lines() {
    local line separator=''
    printf '['
    while IFS= read -r line; do
        printf '%s%s' "$separator" "$(quoted "$line")"
        separator=', '
    done < <(head -n 40)
    printf ']'
}

verdict_of_all() {
    case " ${step_entries[*]} " in
    *'"verdict": "failed"'*) printf 'failed' ;;
    *'"verdict": "passed"'*)
        if [[ "${step_entries[*]}" != *'"verdict": "not '* ]] && $ended; then printf passed; else printf incomplete; fi
        ;;
    *) printf 'incomplete' ;;
    esac
}

write_summary() {
    local name i
    {
        printf '{\n"schema": 1,\n"verdict": "%s",\n"complete": %s,\n"seconds": %d' \
            "$(verdict_of_all)" "$ended" $((SECONDS - begun))
        for name in hardware driver nvcc revision date minutes programs build sizes interrupted; do
            [[ -z ${facts[$name]:-} ]] || { printf ',\n"%s": ' "$name" && quoted "${facts[$name]}"; }
        done
        printf ',\n"steps": ['
        for ((i = 0; i < ${#step_entries[@]}; i++)); do
            ((i == 0)) || printf ','
            printf '\n  %s' "${step_entries[i]}"
        done
        printf '\n]\n}\n'
    } >"$out/.summary.part"
    mv "$out/.summary.part" "$out/summary.json"
}

# ---- Steps

put_step() { # verdict, reason, further members
    local entry
    entry="{\"name\": $(quoted "$step"), \"verdict\": \"$1\", \"seconds\": $((SECONDS - step_begin))"
    [[ -z $2 ]] || entry+=", \"reason\": $(quoted "$2")"
    step_entries[${#step_names[@]} - 1]="$entry${3:+, $3}}"
    write_summary
}

begin_step() { # name
    step=$1 step_begin=$SECONDS
    step_names+=("$1")
    put_step running 'the check ended within this step'
}

end_step() { # verdict, reason, further members
    put_step "$@"
    say_step "$1" "$2"
}

say_step() { # verdict, reason
    local line
    printf -v line '[%4d s] %-44s %s%s' $((SECONDS - begun)) "$step" "$1" "${2:+: $2}"
    printf '%s\n' "$line" >>"$out/log.txt"
    printf '%s\n' "$line" >&2
}

skip_step() { # name, reason
    step=$1 step_begin=$SECONDS
    step_names+=("$1")
    put_step 'not run' "$2"
    say_step 'not run' "$2"
}

# Whether a program can be asked at all; if not, the step is written off with the reason.
have() { # step, program
    if ((deadline - SECONDS < 4)); then
        skip_step "$1" 'the minutes were over'
    elif [[ ! -x $bin/$2 ]]; then
        skip_step "$1" "$2 was not built: $(cat "$bin/$2.reason" 2>/dev/null || echo "${no_programs:-reason unknown}")"
    else
        return 0
    fi
    return 1
}

# Runs a command for at most so many seconds (of an eight-minute check; in proportion for another), and
# never beyond the minutes. Sets rc, took, limit, and cut where it was the minutes that ended it.
within() { # seconds, command...
    local most
    most=$(awk -v s="$1" -v f="$scale" 'BEGIN { m = s * f; printf "%d", (m < 4) ? 4 : m + 0.5 }')
    limit=$((deadline - SECONDS)) cut=true
    ((limit < most)) || { limit=$most cut=false; }
    ((limit > 0)) || limit=1
    shift
    local from=$SECONDS
    timeout -k 4 "$limit" "$@" &
    child=$!
    rc=0
    wait "$child" || rc=$?
    child=0
    took=$((SECONDS - from))
    ((rc == 124 || (rc == 137 && took >= limit))) || cut=false
}

out_of_time() { ((rc == 124 || (rc == 137 && took >= limit))); }

# What ended a program that did not end by itself, or nothing. n: what it had done by then.
ending() { # what it had done
    if $cut; then
        printf 'the minutes were over after %d s%s' "$limit" "$1"
    elif out_of_time; then
        printf 'it did not end within %d s%s' "$limit" "$1"
    elif ((rc > 128)); then
        printf 'it was killed by signal %s%s' "$(kill -l $((rc - 128)) 2>/dev/null || echo $((rc - 128)))" "$1"
    elif ((rc == 126 || rc == 127)); then
        printf 'it cannot be started (exit status %d)' "$rc"
    fi
}

# Ends the running step whose program did not end by itself.
end_unended() { # reason, further members
    if $cut; then
        end_step 'not finished' "$@"
    else
        end_step failed "$@"
    fi
}

# Ends the running step by its TAP file and its exit status.
end_by_tap() { # file, further members
    local passed failed planned why members
    passed=$(grep -c '^ok ' "$1" 2>/dev/null) failed=$(grep -c '^not ok ' "$1" 2>/dev/null)
    planned=$(sed -n 's/^1\.\.\([0-9]*\)$/\1/p' "$1" 2>/dev/null | head -n 1)
    members="\"passed\": ${passed:-0}, \"failed\": ${failed:-0}, \"status\": $rc"
    members+=", \"failures\": $(sed -n 's/^not ok - //p' "$1" 2>/dev/null | quoted_lines)${2:+, $2}"
    why=$(ending ", with ${passed:-0} passed and ${failed:-0} failed")
    if [[ -z $why ]]; then
        if [[ -z $planned ]]; then
            why="it ended without its plan, with ${passed:-0} passed and ${failed:-0} failed (exit status $rc)"
        elif ((planned != passed + failed)); then
            why="it ended after $((passed + failed)) of $planned cases (exit status $rc)"
        elif ((planned == 0)); then
            why='it ran no case'
        elif ((failed > 0)); then
            why="$failed of $planned cases failed"
        elif ((rc != 0)); then
            why="exit status $rc although no case failed"
        fi
    fi
    if [[ -z $why ]]; then
        end_step passed '' "$members"
    elif ((${failed:-0} == 0)); then
        end_unended "$why" "$members"
    else
        end_step failed "$why" "$members"
    fi
}

interrupted() { # signal
    ((child == 0)) || kill -TERM "$child" 2>/dev/null
    facts[interrupted]="by SIG$1"
    [[ ${step_entries[-1]:-} != *'"verdict": "running"'* ]] || end_step 'not finished' "the check was ended by SIG$1"
    write_summary
    say "ended by SIG$1; what is known is in $out"
    exit 5
}
