# Latency of the traced chunks, stacked by op over depth: as time at the left, as shares at the right.
# time_by_op.dat: middle of the chunk, half the bar's width (tokens), from, to, latency (s), series.
OTHER = 6; NO_OP = 7
name(i) = value(sprintf('SERIES_%d', i))
shade(i) = i == NO_OP ? tint(FAINT, 0.7) : i == OTHER ? tint(FAINT, 0.25) : color(i)
do for [i = 0 : NO_OP] { if (name(i) ne '') { eval entry(BOX, name(i), shade(i)) } }
HEIGHT = 280
eval open_page
set multiplot

STEP = step2(TOKENS, 4)
set xrange [0 : TOKENS * 1.01]
set xtics ()
do for [i = 0 : 20] { if (i * STEP <= TOKENS * 1.01) { set xtics add (tokens(i * STEP) i * STEP) } }
set xlabel 'depth in the prompt (tokens)'
set grid noxtics ytics back ls 100

set lmargin at screen 0.105
set rmargin at screen 0.53
set ylabel 'latency of the chunk'
set yrange [0 : MOST * 1.05]
TIME_STEP = step10(MOST, 5)
set ytics ()
do for [i = 0 : 20] { if (i * TIME_STEP <= MOST * 1.05) { set ytics add ((i == 0 ? '0' : seconds(i * TIME_STEP)) i * TIME_STEP) } }
plot 'time_by_op.dat' using 1:(0):($1 - $2):($1 + $2):3:4:(shade($6)) with boxxyerror fs solid 1 noborder lc rgb variable

eval page_is_labelled
set lmargin at screen 0.635
set rmargin at screen 0.98
set ylabel 'share of it'
set yrange [0 : 100]
set ytics ()
do for [i = 0 : 100 : 20] { set ytics add (sprintf('%d%%%%', i) i) }
plot 'time_by_op.dat' using 1:(0):($1 - $2):($1 + $2):(100 * $3 / $5):(100 * $4 / $5):(shade($6)) \
         with boxxyerror fs solid 1 noborder lc rgb variable
unset multiplot
