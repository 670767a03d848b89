#!/bin/sh
# Every tier of the tests: run_all.sh BUILD [REGEX]. BUILD is a finished release build; the others are built beside it:
# address and undefined-behaviour sanitizers, thread sanitizer, clang. Prints a line for each, exits 1 if any failed.
set -u
build=$1
only=${2:-.}
root=$(cd "$(dirname "$0")/.." && pwd)
failed=

say() { printf '\n== %s\n' "$*"; }

# $1: build folder; the rest: name=value settings of the environment
run_tests() {
    folder=$1
    shift
    env "$@" ctest --test-dir "$folder" --label-regex fast --tests-regex "$only" --no-tests=error --output-on-failure
}

# $1: name; the rest: arguments of cmake. With sanitizers gcc warns of truncations that it has ruled out without them, so
# warnings are errors in the other builds only.
configure_and_build() {
    name=$1
    shift
    mkdir -p "$build/$name"
    if ! { cmake -S "$root" -B "$build/$name" "$@" &&
        cmake --build "$build/$name" --parallel "$(nproc)"; } >"$build/$name/build.log" 2>&1 </dev/null; then
        tail -n 40 "$build/$name/build.log"
        echo "the build failed; the whole log is $build/$name/build.log"
        return 1
    fi
}

say "release"
run_tests "$build" BENCH_TEST_TIER=release || failed="$failed release"

say "address and undefined-behaviour sanitizers"
{ configure_and_build asan -DCMAKE_BUILD_TYPE=Debug "-DSANITIZE=address;undefined" &&
    run_tests "$build/asan" BENCH_TEST_TIER=asan UBSAN_OPTIONS=print_stacktrace=1; } || failed="$failed asan"

say "thread sanitizer"
{ configure_and_build tsan -DCMAKE_BUILD_TYPE=Debug -DSANITIZE=thread &&
    run_tests "$build/tsan" BENCH_TEST_TIER=tsan TSAN_OPTIONS=halt_on_error=1; } || failed="$failed tsan"

if command -v clang >/dev/null 2>&1; then
    say "clang"
    { configure_and_build clang -DCMAKE_C_COMPILER=clang -DWARNINGS_AS_ERRORS=ON &&
        run_tests "$build/clang" BENCH_TEST_TIER=clang; } || failed="$failed clang"
else
    say "clang: not installed"
    failed="$failed clang"
fi

if [ -n "$failed" ]; then
    say "failed:$failed"
    exit 1
fi
say "all tiers pass"
