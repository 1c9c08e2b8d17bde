//! `completion`: a script that makes a shell ask this program what could come next (see `complete`).

use crate::ctl::complete::{COMMAND, SHELLS};
use crate::ctl::golang::quote;
use crate::ctl::{Context, Failure, code, emit};

pub static LONG: &str = "In bash:

$ source <(lockstepctl completion bash)

For every session, write the script to where the shell looks for it: of bash /etc/bash_completion.d/lockstepctl,
of zsh a file _lockstepctl in a folder of $fpath, of fish ~/.config/fish/completions/lockstepctl.fish.
";

const BASH: &str = r#"# bash completion of NAME
_NAME() {
    # Bash splits words at = : @ too: those that no space parts are one word again.
    local IFS=$'\n' rest=$COMP_LINE last=-1 at own
    local -a words=()
    for ((at = 0; at <= COMP_CWORD; at++)); do
        own=${COMP_WORDS[at]}
        if [[ $last -ge 0 && $rest != [[:space:]]* && ($own == [=:@]* || ${words[last]} == *[=:@]) ]]; then
            words[last]+=$own
        else
            words[++last]=$own
        fi
        rest=${rest#"${rest%%[![:space:]]*}"}
        rest=${rest#"$own"}
    done
    COMPREPLY=($("${words[0]}" ASK "${words[@]:1}" 2>/dev/null | cut -f1))
    # Bash puts a choice in the place of its own last word.
    [[ $own == [=:@]* ]] && own=
    rest=${words[last]%"$own"}
    COMPREPLY=("${COMPREPLY[@]#"$rest"}")
}
complete -o default -F _NAME NAME
"#;

const ZSH: &str = r#"#compdef NAME
_NAME() {
    local line
    local -a candidates
    for line in "${(@f)$("${words[1]}" ASK "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( ${#candidates} )); then
        _describe NAME candidates
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_NAME" ]; then
    _NAME "$@"
else
    compdef _NAME NAME
fi
"#;

const FISH: &str = r#"# fish completion of NAME
function __NAME_complete
    set -l words (commandline -opc)
    $words[1] ASK $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c NAME -a '(__NAME_complete)'
"#;

const POWERSHELL: &str = r#"# PowerShell completion of NAME
Register-ArgumentCompleter -Native -CommandName 'NAME' -ScriptBlock {
    param($typed, $line, $position)
    $words = @($line.CommandElements | ForEach-Object { "$_" })
    $program = $words[0]
    $words = @($words | Select-Object -Skip 1)
    if ($typed -eq '') { $words += '""' }
    & $program ASK @words 2>$null | ForEach-Object {
        $candidate, $help = $_ -split "`t", 2
        if (-not $help) { $help = $candidate }
        [System.Management.Automation.CompletionResult]::new($candidate, $candidate, 'ParameterValue', $help)
    }
}
"#;

pub fn run(context: &mut Context) -> Result<(), Failure> {
    let [shell] = context.flags.args.as_slice() else {
        let text = format!("accepts 1 arg(s), received {}", context.flags.args.len());
        return Err(Failure::new(code::ERROR, text));
    };
    let Some(at) = SHELLS.iter().position(|known| known.as_bytes() == shell) else {
        let (shell, program) = (quote(shell), &context.program);
        return Err(Failure::new(code::ERROR, format!("invalid argument {shell} for \"{program} completion\"")));
    };
    let script = [BASH, ZSH, FISH, POWERSHELL][at];
    emit(script.replace("NAME", &context.program).replace("ASK", COMMAND).as_bytes());
    Ok(())
}
