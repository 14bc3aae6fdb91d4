function __avatar_bench
    set -l words (commandline -opc) (commandline -ct)
    if test "$words[2]" = -m
        $words[1..3] completion query fish $words[4..-1] 2>/dev/null
    else
        $words[1] completion query fish $words[2..-1] 2>/dev/null
    end
end
complete -c avatar-bench -f -a '(__avatar_bench)'
complete -c python -c python3 -n 'string match -q -- "*-m avatar_bench *" (commandline -p)' -f -a '(__avatar_bench)'
