# Ops against the measured ceilings, both axes logarithmic: arithmetic on registers (flat), a copy through memory
# (slanted). An op's point is as large as its share of the time; small ones are its single chunks.
# roofline.dat: FLOP a byte, FLOP a second, share of the time, series, chunk (0: all together). labels.dat: FLOP a byte,
# FLOP a second where the name stands, 1: begins there, 0: ends there, name; empty where every op has a colour.
# leaders.dat: a block per name that stands apart, from its point to it.
OTHER = 6
name(i) = value(sprintf('SERIES_%d', i))
shade(i) = i == OTHER ? FAINT : color(i)
do for [i = 0 : OTHER - 1] { if (name(i) ne '') { eval entry(POINT + 7, name(i), shade(i)) } }
eval entry(STROKE, 'measured ceilings', INK)
HEIGHT = 320
eval open_page

rate(r) = r < 999 ? sprintf('%g FLOP/s', r) : r < 999e3 ? sprintf('%g kFLOP/s', r / 1e3) : \
    r < 999e6 ? sprintf('%g MFLOP/s', r / 1e6) : r < 999e9 ? sprintf('%g GFLOP/s', r / 1e9) : \
    r < 999e12 ? sprintf('%g TFLOP/s', r / 1e12) : sprintf('%g PFLOP/s', r / 1e15)
memory(r) = r < 999e9 ? sprintf('%.3g GB/s', r / 1e9) : sprintf('%.3g TB/s', r / 1e12)
ceiling(x) = COPY * x < ROOF ? COPY * x : ROOF

set logscale xy
set samples 500
set xrange [LOW_X : HIGH_X]
set yrange [LOW_Y : HIGH_Y]
set xtics (); set ytics ()
do for [i = -6 : 9] { set xtics add (sprintf('%g', 10.0 ** i) 10.0 ** i) }
do for [i = 0 : 18] { set ytics add (rate(10.0 ** i) 10.0 ** i) }
set xlabel 'operations a byte of compulsory traffic (FLOP/B)'
set ylabel 'speed' offset 1, 0
set lmargin 15
set rmargin 3

set label 110 rate(sprintf('%.2e', ROOF) + 0) at HIGH_X / 1.1, ROOF * 1.35 right boxed font SMALL textcolor rgb INK
set label 111 memory(COPY).' copied' at SLOPE / 1.2, ceiling(SLOPE) * 1.5 right boxed font SMALL textcolor rgb INK
set label 112 'size of a point: share of the time; small: single chunks; caches beat the slanted ceiling' \
    at graph 0.02, graph 0.955 left boxed font SMALL textcolor rgb FAINT
set label 113 HIDDEN at graph 0.985, graph 0.04 right boxed font SMALL textcolor rgb FAINT

plot ceiling(x) with lines lc rgb INK lw 1.5, \
     'roofline.dat' using ($5 > 0 ? $1 : NaN):2:(tint(shade($4), 0.35)) with points pt 7 ps 0.35 lc rgb variable, \
     '' using ($5 == 0 ? $1 : NaN):2:(0.7 + 3 * sqrt($3)):(tint(shade($4), 0.1)) \
         with points pt 7 ps variable lc rgb variable, \
     'leaders.dat' using 1:2 with lines lc rgb FAINT lw 0.5, \
     'labels.dat' using ($3 == 1 ? $1 : NaN):2:4 with labels left font SMALL textcolor rgb FAINT, \
     '' using ($3 == 0 ? $1 : NaN):2:4 with labels right font SMALL textcolor rgb FAINT
