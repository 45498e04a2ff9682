"""A systemctl as a shell script that answers as systemd 252 or 239 does, from its own notes.

It shows what Tako does with such answers. The suite `machine` shows that systemd gives them.

    install(folder, root, script='...', bad=[digests])

writes it to folder/bin. It appends each call to folder/called: its arguments and the target of
root/latest. While latest names one of the bad images, `script` runs first. There it may use

    $verb                 the verb of the call
    $looks                calls of `show` since the last start of a unit
    for unit; do ...      the units of the call
    begin UNIT            start the unit, with a new InvocationID
    fail UNIT RESULT CODE STATUS      end its main process, so that it fails
    finish UNIT           end its main process with 0
    stop UNIT             stop the unit
    set_unit UNIT FIELD=VALUE...      change what `show` prints of the unit
"""
import os
import shlex

SCRIPT = r'''#!/bin/sh
cd {folder}/systemd || exit 1
# No command starts another program if a builtin does, as tests call this some thousand times.
image=
for each in {root}/store/*; do
    [ ! {root}/latest -ef "$each" ] || image=store/${{each##*/}}
done
[ -n "$image" ] || image=$(readlink {root}/latest)
echo "$@" "$image" >> ../called
verb=$1
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
[ $# -eq 0 ] || shift

get() {{        # read the notes of a unit into variables
    load=loaded type=simple state=inactive sub=dead result=success invocation= restarts=0
    code=0 status=0 started=0 exited=0 left=0 condition=no checked=0
    collect=inactive triggered= requires= job= names=$1
    [ ! -e "$1" ] || . "./$1"
}}
put() {{
    echo "load='$load' type='$type' state='$state' sub='$sub' result='$result'
invocation='$invocation' restarts='$restarts' code='$code' status='$status' started='$started'
exited='$exited' left='$left' condition='$condition' checked='$checked' collect='$collect'
triggered='$triggered' requires='$requires' job='$job' names='$names'" > ".$1"
    mv ".$1" "$1"           # another systemctl, which outlived its tako, may run, too
}}
set_unit() {{
    get "$1"
    unit_=$1
    shift
    for field; do eval "${{field%%=*}}='${{field#*=}}'"; done
    put "$unit_"
}}
begin() {{
    number=0
    [ ! -e .number ] || read -r number < .number
    number=$((number + 1))
    echo $number > .number
    echo 0 > .looks
    digits=00000000000000000000000000000000$number      # of which the last 32 are used
    set_unit "$1" state=active sub=running result=success code=0 status=0 started=10 exited=0 \
        left=0 condition=yes checked=9 \
        "invocation=${{digits#"${{digits%????????????????????????????????}}"}}"
}}
fail() {{
    set_unit "$1" state=failed sub=failed "result=$2" "code=$3" "status=$4" exited=20 left=21
}}
finish() {{ set_unit "$1" state=inactive sub=dead code=1 status=0 exited=20 left=21; }}
stop() {{ set_unit "$1" state=inactive sub=dead code=1 status=0 exited=21 left=20; }}

looks=0
[ ! -e .looks ] || read -r looks < .looks
[ $verb != show ] || {{ looks=$((looks + 1)); echo $looks > .looks; }}
case "$image" in
{bad}) {script} ;;
esac
case $verb in
restart) for unit; do begin "$unit"; done ;;
reset-failed) for unit; do get "$unit"; [ "$restarts" = 0 ] || set_unit "$unit" restarts=0; done ;;
is-system-running) echo running ;;
show)
    between='' end='
'
    for unit; do
        get "$unit"
        trigger="TriggeredBy=$triggered$end" work="Job=$job$end"
        [ {is_239} = False ] || trigger=
        [ {is_239} = False ] || [ -n "$job" ] || work=
        echo "${{between}}Type=$type
NRestarts=$restarts
Result=$result
ExecMainStartTimestampMonotonic=$started
ExecMainExitTimestampMonotonic=$exited
ExecMainCode=$code
ExecMainStatus=$status
Id=${{names%% *}}
Names=$names
Requires=$requires
${{trigger}}LoadState=$load
ActiveState=$state
SubState=$sub
ActiveExitTimestampMonotonic=$left
${{work}}ConditionResult=$condition
ConditionTimestampMonotonic=$checked
CollectMode=$collect
InvocationID=$invocation"
        between=$end
    done
    ;;
esac
exit 0
'''

FAILED_JOB = ('Job for $unit failed because the control process exited with error code.\n'
              'See "systemctl status $unit" and "journalctl -xeu $unit" for details.')
# scripts of bad images: the unit fails to start; fails when shown the second time; hangs
FAILS = ('case $verb in restart) for unit; do begin $unit; fail $unit exit-code 1 1; '
         'echo "{}" >&2; done; exit 1 ;; esac').format(FAILED_JOB.replace('"', '\\"'))
DIES = 'case $verb in show) [ $looks -lt 2 ] || for unit; do fail $unit exit-code 1 7; done ;; esac'
HANGS = 'case $verb in restart) exec sleep 60 ;; esac'


def install(folder, root, script=':', bad=(), is_239=False):
    """Write the script to folder/bin/systemctl, or change it. It keeps its notes of units."""
    for name, mode in (('bin', 0o755), ('systemd', 0o777)):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        os.chmod(os.path.join(folder, name), mode)
    path = os.path.join(folder, 'bin', 'systemctl')
    with open(path + '.new', 'w') as stream:
        stream.write(SCRIPT.format(folder=shlex.quote(folder), root=shlex.quote(root),
                                   script=script, is_239=is_239,
                                   bad='|'.join('store/' + digest for digest in bad) or 'none'))
    os.chmod(path + '.new', 0o755)
    os.rename(path + '.new', path)


def restarts(folder):
    """Return the SHA-256 of the images on which units were restarted, in order."""
    return [line.split('/')[-1] for line in _calls(folder) if line.startswith('restart ')]


def restarted(folder):
    """Return the units that were restarted, a list for each call."""
    return [line.split(' -- ')[1].split()[:-1] for line in _calls(folder)
            if line.startswith('restart ')]


def _calls(folder):
    path = os.path.join(folder, 'called')
    if not os.path.exists(path):
        return []
    with open(path) as stream:
        return stream.read().splitlines()


def reboot(folder):
    """Forget all units, as after a power cut."""
    notes = os.path.join(folder, 'systemd')
    for name in os.listdir(notes) if os.path.isdir(notes) else []:
        os.unlink(os.path.join(notes, name))
