# Sourced before commands that compute on CPUs, with glibc 2.35 or newer:
#   source launch/cpu.sh
# What a step frees stays with the process, in pages of 2 MB where the kernel
# gives them, so that it is not mapped and zeroed anew at the next step.
_kept=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0
_kept+=:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456
export GLIBC_TUNABLES="${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}$_kept"
unset _kept
