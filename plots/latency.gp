# Chunk latency against depth, both axes logarithmic: flat while a token's own work leads, rising when attention does.
# latency.dat: a block per series, rows of depth, seconds, sampled. fit.dat: a block per series, the affine law.
name(i) = value(sprintf('SERIES_%d', i))
shade(i) = color(value(sprintf('COLOR_%d', i)))
is_graph(i) = value(sprintf('GRAPH_%d', i))
point(i) = shape(value(sprintf('COLOR_%d', i)), is_graph(i))
LEGEND_STEP = 380
do for [k = 1 : SERIES] { eval entry(POINT + point(k), name(k), shade(k)) }
HEIGHT = 300
eval open_page

set xlabel 'depth in the prompt: middle of the chunk (tokens)'
set ylabel 'latency of the chunk'
set logscale xy
stats 'latency.dat' using 1:2 nooutput
set xrange [STATS_min_x / 1.3 : STATS_max_x * 1.3]
LOWEST = STATS_min_y / 1.3
ROOM = 0.18 # of the height, for the notes
set yrange [LOWEST : STATS_max_y * (STATS_max_y / LOWEST) ** (ROOM / (1 - ROOM))]
DECADES = log10(STATS_max_y / STATS_min_y)
set xtics ()
do for [i = 0 : 40] { set xtics add (tokens(2.0 ** i) 2.0 ** i) }
set ytics ()
do for [i = -9 : 6] { set ytics add (seconds(10.0 ** i) 10.0 ** i) }
if (DECADES < 4) { do for [i = -9 : 6] { do for [k in '2 5'] { set ytics add (seconds(k * 10.0 ** i) k * 10.0 ** i) } } }

set lmargin 11
set rmargin 3
LAW = 'lines: affine fit, latency at depth 0 + growth per 1k tokens of depth; dashed: graph'
WHERE = !SAMPLED ? '' : FULL ? 'filled: within a whole prefill; open: alone, on a synthetic cache' : \
    'every chunk alone, on a synthetic cache'
set label 104 LAW at graph 0.02, graph 0.95 left boxed font SMALL textcolor rgb FAINT
set label 105 WHERE at graph 0.02, graph 0.89 left boxed font SMALL textcolor rgb FAINT

plot for [i = 1 : SERIES] 'fit.dat' index i - 1 with lines lc rgb shade(i) lw 1.5 dt 1 + is_graph(i), \
     for [i = 1 : SERIES] 'latency.dat' index i - 1 using 1:($3 == 0 ? $2 : NaN) with points \
         pt point(i) ps 0.6 lc rgb shade(i), \
     for [i = 1 : SERIES] 'latency.dat' index i - 1 using 1:($3 == 1 ? $2 : NaN) with points \
         pt point(i) - 1 ps 0.9 lw 1.5 lc rgb shade(i)
