#compdef avatar-bench
_avatar_bench() {
    local -a found
    local cut=1
    [[ ${words[2]} == -m && ${words[3]} == avatar_bench ]] && cut=3
    if [[ $cut == 1 && ${words[1]} == *python* ]]; then _files; return; fi
    local -a program=("${words[@]:0:$cut}") given=("${words[@]:$cut:$((CURRENT - cut))}")
    found=("${(@f)$("${program[@]}" completion query zsh "${(@Q)given}" 2>/dev/null)}")
    if [[ -n ${found[1]} ]]; then
        compadd -S '' -- "${found[@]}"
    else
        compset -P '*='
        _files
    fi
}
compdef _avatar_bench avatar-bench
(( ${+_comps[python]} )) || compdef _avatar_bench python python3
