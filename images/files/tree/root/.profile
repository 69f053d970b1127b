PS1='metalcast:\w# '
export PYTHONPATH=/usr/lib/metalcast
