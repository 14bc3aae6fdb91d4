_avatar_bench() {
    local words=() word line i
    for ((i = 0; i <= COMP_CWORD; i++)); do  # readline splits words at = and :, which are part of them
        word=${COMP_WORDS[i]}
        if ((${#words[@]})) && [[ $word == [=:]* || ${words[-1]} == *[=:] && $glued == 1 ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
        local glued=0
        [[ $word == *[=:] ]] && glued=1
    done
    local cut=1
    [[ ${words[1]} == -m && ${words[2]} == avatar_bench ]] && cut=3
    [[ $cut == 1 && ${words[0]} == *python* ]] && return
    local program=("${words[@]:0:cut}") current=${words[-1]}
    local prefix=${current%"${current##*[=:]}"}
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line#"$prefix"}")
    done < <("${program[@]}" completion query bash "${words[@]:cut}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _avatar_bench avatar-bench
for _avatar_bench_python in python python3; do  # keep an existing completion
    complete -p $_avatar_bench_python &>/dev/null || complete -o default -F _avatar_bench $_avatar_bench_python
done
unset _avatar_bench_python
